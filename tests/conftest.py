"""The tests run on the CPU, on a GPU machine too: equality to the bit is promised there."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
