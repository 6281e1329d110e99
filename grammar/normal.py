"""The rules of a space as one text that only changes when the space does."""

from nas.grammar.rules import Alternative, Grammar, Literal


def normalised(grammar: Grammar) -> str:
    """The rules in normal form: equal texts mean equal spaces.

    Comments, white space, the names and the layout of files do not show: rules are numbered in the
    order in which the start rule reaches them. The names of terms, the order of alternatives,
    weights and conditions do.
    """
    numbers = {grammar.start: 0}
    order = [grammar.start]
    for name in order:
        for alternative in grammar.rules[name]:
            for reference in alternative.references:
                if reference not in numbers:
                    numbers[reference] = len(order)
                    order.append(reference)
    lines = [f"version {grammar.version}", f"max_depth {grammar.max_depth}"]
    for name in order:
        lines += [f"{numbers[name]}: {_line(a, numbers)}" for a in grammar.rules[name]]
    return "\n".join(lines)


def _line(alternative: Alternative, numbers: dict[str, int]) -> str:
    parts = [
        ("!" if symbol.kept else "") + repr(symbol.text)
        if isinstance(symbol, Literal)
        else str(numbers[symbol.rule])
        for symbol in alternative.symbols
    ]
    parts.append(f"-> {alternative.name} weight {alternative.weight}")
    if alternative.where is not None:
        parts.append(f"where {alternative.where}")
    parts += [f"let {name} = {value}" for name, value in alternative.lets]
    flags = ("commutative", "associative", "identity")
    parts += [flag for flag in flags if getattr(alternative, flag)]
    return " ".join(parts)
