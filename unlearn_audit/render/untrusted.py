"""Text from elsewhere on its way to a person: nothing in it steers a screen, and it does not fill one."""

LONGEST = 4000  # characters of one text that a person is shown


def printable(text: str) -> str:
    r"""Return text from elsewhere with what is no visible character or space written out, since it may steer a screen.

    >>> printable("a\x1b[31m\nb")
    'a\\x1b[31m\\nb'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def brief(text: str) -> str:
    r"""Return text from elsewhere as `printable` does, and no more of it than somebody would read.

    >>> brief("x" * 5000)[-27:]
    'xx… (1,000 more characters)'
    """
    if len(text) <= LONGEST:
        return printable(text)
    return f"{printable(text[:LONGEST])}… ({len(text) - LONGEST:,} more characters)"
