"""The parts of the server in the tests for datasets and kernels; a kernel may really run, in a folder like /kaggle."""

import json
import threading
from pathlib import Path

from tests.leaderboard import kaggle_folder
from tests.leaderboard.server import USER, AnswerError

MEGABYTE = 1_000_000


class Datasets:
    """Private datasets. versions: "owner/slug" -> [{file name: bytes}], the newest last.

    slow: how many times each new version is asked for before it is ready. fails: versions end as FAILED.
    """

    def __init__(self, server):
        self.server, self.versions, self.names, self.left = server, {}, {}, {}
        self.slow, self.fails, self.refuses = 0, False, ""

    def StartBlobUpload(self, body):
        place = self.server.place(int(body.get("contentLength", 0)))
        self.names[place["token"]] = body["name"]
        return place

    def GetDatasetStatus(self, body):
        ref = self._there(body)
        if self.fails:
            return {"status": "FAILED"}
        self.left[ref] -= 1
        return {"status": "READY" if self.left[ref] < 0 else "BLOBS_RECEIVED"}

    def ListDatasetFiles(self, body):
        """Three to a page, so that one who reads only the first is found out."""
        newest = self.versions[self._there(body)][-1]
        first = int(body.get("pageToken") or 0)
        files = [{"name": name, "totalBytes": len(content)} for name, content in newest.items()]
        more = {"nextPageToken": str(first + 3)} if first + 3 < len(files) else {}
        return {"datasetFiles": files[first : first + 3], **more}

    def CreateDataset(self, body):
        ref = f"{body['ownerSlug']}/{body['slug']}"
        if self.refuses or ref in self.versions or not 6 <= len(body["title"]) <= 50:
            return {"status": "Error", "error": self.refuses or f"The requested title {body['title']!r} is in use"}
        if not body.get("isPrivate"):
            raise AnswerError(400, "this server is for private datasets")
        return self._add(ref, body["files"])

    def CreateDatasetVersion(self, body):
        ref = self._there(body)
        if self.left[ref] >= 0:
            raise AnswerError(403, "The dataset is being processed")
        return self._add(ref, body["body"]["files"])

    def _add(self, ref, files):
        if not ref.startswith(f"{USER}/"):
            raise AnswerError(403, "Permission 'datasets.create' was denied")
        content = {self.names[file["token"]]: self.server.uploaded(file["token"]) for file in files}
        self.versions.setdefault(ref, []).append(content)
        self.left[ref] = self.slow
        return {"ref": ref, "url": f"https://www.kaggle.com/datasets/{ref}", "status": "Ok"}

    def _there(self, body):
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if ref not in self.versions:
            raise AnswerError(403, "Permission 'datasets.get' was denied")
        return ref


class Kernels:
    """Kernels. versions: "owner/slug" -> [body of SaveKernel], the newest last.

    outputs: (ref, number) -> {name: bytes}. writes: those of the versions to come. states: what a version is, poll
    after poll, the last for good. runs_in: the competition's data; each version is then really run, in a folder below
    `place` of this layout, and is in the state that follows from how it ended.
    """

    def __init__(self, server):
        self.server, self.versions, self.outputs, self.logs, self.asked, self.results = server, {}, {}, {}, {}, {}
        self.states, self.failure, self.error = ["COMPLETE"], "", ""
        self.writes = {"submission.csv": b"id,rle_mask\na,1 1\n"}
        self.runs_in, self.place, self.layout = None, None, "nested"

    def SaveKernel(self, body):
        owner = body["slug"].split("/")[0]
        ref = f"{owner}/{body['newTitle'].lower().replace(' ', '-')}"  # the title decides, whatever the slug says
        if owner != USER:
            raise AnswerError(403, "Permission 'kernels.update' was denied")
        if len(body["text"].encode()) >= MEGABYTE:
            raise AnswerError(400, "The kernel source must be less than 1 megabytes in size.")
        if self.error:
            return {"error": self.error}
        number = len(self.versions.setdefault(ref, [])) + 1
        self.versions[ref].append(body)
        if self.runs_in:
            self.results[ref, number] = None
            threading.Thread(target=self._run, args=(ref, number, body)).start()
        else:
            self.outputs[ref, number] = dict(self.writes)
        unknown = [source for source in body.get("datasetDataSources", []) if source not in self._datasets().versions]
        return {"ref": ref, "url": f"https://www.kaggle.com/code/{ref}", "versionNumber": number,
                "invalidDatasetSources": unknown}  # fmt: skip

    def GetKernel(self, body):
        ref = self._there(body)
        newest = self.versions[ref][-1]
        flags = {key: newest.get(key, False) for key in ("isPrivate", "enableGpu", "enableInternet")}
        return {"metadata": {"ref": ref, "currentVersionNumber": len(self.versions[ref]), **flags},
                "blob": {"source": newest["text"].replace("\n", "\r\n"), "language": "python"}}  # fmt: skip

    def GetKernelSessionStatus(self, body):
        ref = self._there(body)
        if not body.get("versionLabel"):  # as seen live: the first answer may be about the version before
            return {"status": "COMPLETE"}
        key = (ref, int(body["versionLabel"].removeprefix("v")))
        if key in self.results:
            return {"status": self.results[key] or "RUNNING"}
        asked = self.asked[key] = self.asked.get(key, -1) + 1
        status = self.states[min(asked, len(self.states) - 1)]
        return {"status": status, "failureMessage": self.failure if status == "ERROR" else ""}

    def ListKernelSessionOutput(self, body):
        """Two to a page."""
        key = (self._there(body), int(body["versionLabel"].removeprefix("v")))
        first, names = int(body.get("pageToken") or 0), list(self.outputs[key])
        files = []
        for name in names[first : first + 2]:
            self.server.files[f"{key[1]}/{name}"] = self.outputs[key][name]
            files.append({"fileName": name, "url": f"http://localhost/files/{key[1]}/{name}"})
        pieces = [
            {"stream_name": "stdout", "time": 1.5, "data": piece} for piece in self.logs.get(key, ("a\nb", "c\n"))
        ]
        more = {"nextPageToken": str(first + 2)} if first + 2 < len(names) else {}
        return {"files": files, "log": json.dumps(pieces), **more}

    def _there(self, body):
        ref = f"{body['userName']}/{body['kernelSlug']}"
        if ref not in self.versions:
            raise AnswerError(403, "Permission 'kernels.get' was denied")
        return ref

    def _datasets(self):
        return next(service for service in self.server.services.values() if isinstance(service, Datasets))

    def _run(self, ref, number, body):
        """Run a version offline, and keep what it wrote and printed."""
        sources = body.get("datasetDataSources", [])
        datasets = {source: self._datasets().versions[source][-1] for source in sources}
        root = kaggle_folder.build(Path(self.place) / f"v{number}", self.runs_in, datasets, self.layout)
        script = root / "script.py"
        script.write_text(body["text"])
        done = kaggle_folder.run(script, root, on_kaggle=True)
        written = [path for path in (root / "working").rglob("*") if path.is_file()]
        self.outputs[ref, number] = {str(path.relative_to(root / "working")): path.read_bytes() for path in written}
        self.logs[ref, number] = (done.stdout, done.stderr)
        self.results[ref, number] = "ERROR" if done.returncode else "COMPLETE"
