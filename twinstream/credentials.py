"""Refuse secrets in URIs: settings are saved beside outputs, and messages repeat them."""

from twinstream.errors import InputError

STORE_SCHEMES = ("s3", "gs")
SECRET_OPTIONS = ("access_key=", "secret_key=", "token=")


def refuse_credentials(text: str, what: str) -> None:
    """InputError for a URI with a user, password or key; it names `what`, not the text."""
    scheme, separator, rest = text.partition("://")
    authority = rest.split("/")[0]
    # An AWS secret can hold a slash; the part before it then looks like HOST:PORT, and no bucket
    # looks like that.
    has_user = "@" in authority + rest.partition("?")[2] or (
        ":" in authority and scheme.endswith(STORE_SCHEMES)
    )
    if separator and (has_user or any(word in rest for word in SECRET_OPTIONS)):
        raise InputError(
            f"{what}: a URI must not hold credentials; put them into the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or into a profile"
        )
