"""What the workers of a Ray cluster report, kept for the command that looks. Light: its process loads no torch."""


class ProgressActor:
    """An actor: updates made of each stage, each value handed out once."""

    def __init__(self) -> None:
        self._new: dict[str, int] = {}

    def note(self, key: str, done: int) -> None:
        self._new[key] = done

    def news(self) -> dict[str, int]:
        """What came in since the last call."""
        news, self._new = self._new, {}
        return news
