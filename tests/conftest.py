"""The tests run on the CPU, on a GPU machine too: equality to the bit is promised there. And none can reach Kaggle."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
# whatever asks Kaggle asks a closed port of this machine instead, unless a test starts a server (tests/leaderboard)
CLOSED = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
os.environ |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "NO_PROXY": "", "no_proxy": "", **CLOSED}
