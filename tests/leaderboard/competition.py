"""The competition's part of the server in the tests: who has entered, the files, limits, submissions and scores."""

from tests.leaderboard.server import AnswerError

NOT_TODAY = (
    "Submission not allowed:  Your team has used its daily Submission allowance ({}) today, "
    "please try again tomorrow UTC (4.2 hours from now)."
)


class Competition:
    """One competition with settings that a test may change at any time.

    pending: how many times a submission is asked for before it is scored. scores: public and private, of every one.
    fails_with: why every submission ends in error, if it does. data: the competition's files by name.
    """

    def __init__(self, server):
        self.server = server
        self.slug, self.entered, self.disabled, self.kernels_only = (
            "tgs-salt-identification-challenge",
            True,
            False,
            False,
        )
        self.deadline, self.daily_limit, self.used_today = "2018-10-19T23:59:00Z", 5, 0
        self.submissions, self.pending, self.scores, self.fails_with = [], 1, ("0.81234", "0.83456"), ""
        self.data = {}

    def GetCompetition(self, body):
        self._named(body)
        return {"ref": self.slug, "title": "TGS", "deadline": self.deadline, "userHasEntered": self.entered,
                "maxDailySubmissions": self.daily_limit, "submissionsDisabled": self.disabled,
                "isKernelsSubmissionsOnly": self.kernels_only}  # fmt: skip

    def GetSubmissionLimits(self, body):
        self._joined(body)
        left = self.daily_limit - self.used_today
        return {key: value for key, value in {"numToday": self.used_today, "numAllowedNow": left}.items() if value}

    def ListDataFiles(self, body):
        self._joined(body)
        return {
            "files": [{"name": name, "ref": name, "totalBytes": len(content)} for name, content in self.data.items()]
        }

    def DownloadDataFiles(self, body):
        self._joined(body)
        return f"{self.slug}.zip"

    def StartSubmissionUpload(self, body):
        self._joined(body)
        return self.server.place(int(body.get("contentLength", 0)))

    def CreateSubmission(self, body):
        self._joined(body)
        content = self.server.uploaded(body["blobFileTokens"])
        return self._accept(content, body.get("submissionDescription", ""), "submission.csv")

    def CreateCodeSubmission(self, body):
        self._joined(body)
        source = f"{body['kernelOwner']}/{body['kernelSlug']}/{body['kernelVersion']}"
        return self._accept(source.encode(), body.get("submissionDescription", ""), body.get("fileName", ""))

    def GetSubmission(self, body):
        for row in self.submissions:
            if row["ref"] == body["ref"]:
                self._advance(row)
                return self._public(row)
        raise AnswerError(404, "Submission not found")

    def ListSubmissions(self, body):
        """Two to a page, the newest first, so that one who reads only the first page is found out."""
        self._joined(body)
        first = int(body.get("pageToken") or 0)
        rows = self.submissions[::-1][first : first + 2]
        for row in rows:
            self._advance(row)
        more = {"nextPageToken": str(first + 2)} if first + 2 < len(self.submissions) else {}
        return {"submissions": [self._public(row) for row in rows], **more}

    def _accept(self, content, description, name):
        if self.used_today >= self.daily_limit:
            raise AnswerError(400, NOT_TODAY.format(self.daily_limit))
        self.used_today += 1
        ref = 30_000_001 + len(self.submissions)
        self.submissions.append({"ref": ref, "content": content, "description": description, "fileName": name,
                                 "date": "2026-11-21T12:00:00Z", "asked": 0, "status": "PENDING"})  # fmt: skip
        return {"message": "Successfully submitted", "ref": ref}

    def _advance(self, row):
        row["asked"] += 1
        if row["status"] == "PENDING" and row["asked"] > self.pending:
            if self.fails_with:
                row |= {"status": "ERROR", "errorDescription": self.fails_with}
            else:
                row |= {"status": "COMPLETE", "publicScore": self.scores[0], "privateScore": self.scores[1]}

    def _public(self, row):
        return {key: value for key, value in row.items() if key not in ("content", "asked")}

    def _named(self, body):
        if body.get("competitionName") != self.slug:
            raise AnswerError(404, "Competition not found")

    def _joined(self, body):
        if body.get("competitionName") != self.slug or not self.entered:
            raise AnswerError(403, "Permission 'competitions.participate' was denied")
