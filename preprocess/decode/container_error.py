"""The error of a container that is broken, and the words for an element that ends too late."""


class ContainerError(Exception):
    """The container is broken; the message says where, in one line without paths.

    `position` is a byte before which all is whole, None where no such place is known.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


def overrun(position: int, end: int, num_bytes: int) -> str:
    """What is wrong with an element whose end, by its size, lies behind what holds it."""
    if end > num_bytes:
        return (
            f"cut off or damaged: the element at byte {position} ends {end - num_bytes} bytes "
            "after the file"
        )
    return f"damaged: the element at byte {position} is longer than what holds it"
