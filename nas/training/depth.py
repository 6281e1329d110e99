"""An architecture whose outermost stack is as deep as asked."""

import re

from nas.errors import UsageError
from nas.grammar.derivation import Term
from nas.grammar.space import Space


def at_depth(space: Space, text: str, asked: int | None, usual: int | None) -> Term:
    """The architecture of a text, `stack(N, block)` with another N.

    Args:
        space: The space that the text belongs to.
        text: The architecture's text.
        asked: N; None: the usual one.
        usual: N where nothing is asked and there is a stack; None: as the text says.

    Raises:
        UsageError: A depth is asked, and nothing is stacked.
        SpaceError: The space does not allow the architecture.
    """
    derivation = space.parse(text)
    wanted = asked or usual
    if wanted is None:
        return derivation.term
    written = derivation.text
    stack = re.search(r"\bstack\((\d+), ", written)
    if stack is None:
        if asked is not None:
            raise UsageError("--depth: this architecture has no stack(N, ...) to repeat its block")
        return derivation.term
    end = open_ = 0
    for end in range(stack.end(), len(written)):
        open_ += {"(": 1, ")": -1}.get(written[end], 0)
        if open_ < 0:
            break
    block = written[stack.end() : end]
    repeated = block if wanted == 1 else f"stack({wanted}, {block})"
    return space.parse(written[: stack.start()] + repeated + written[end + 1 :]).term
