"""The one error of the cluster: what failed, why, and what to do about it."""


class ClusterError(Exception):
    """A part that could not be had, started or reached; `str()` is one line for people, `remedy` what to do."""

    def __init__(self, message: str, *, remedy: str = "", log_lines: list[str] | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.log_lines = log_lines or []
