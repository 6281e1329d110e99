"""How the publication of a task trains on it: what `nas train --profile paper` goes through."""

from dataclasses import dataclass, field, replace

from nas.tasks.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A publication's models and training, beside the batch size and steps that a task has.

    Args:
        source: Whose it is, and what of it this leaves out; "" where there is none.
        backbone: What the publication puts a mixer into, for people.
        depth: How often a system of the zoo repeats its block; None: as often as its text says.
        widths: D of its models; (): the profile's own.
        recipe: What all of its trainings share.
        learning_rates: Its peak learning rates; (): that of the recipe.
        weight_decays: Its weight decays, each tried with every rate; (): that of the recipe.
        enough: A training ends after the epoch in which validation is above this; None: never.
    """

    source: str = ""
    backbone: str = ""
    depth: int | None = None
    widths: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    learning_rates: tuple[float, ...] = ()
    weight_decays: tuple[float, ...] = ()
    enough: float | None = None

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All that are tried; validation chooses one."""
        return tuple(
            replace(self.recipe, learning_rate=rate, weight_decay=decay)
            for rate in self.learning_rates or (self.recipe.learning_rate,)
            for decay in self.weight_decays or (self.recipe.weight_decay,)
        )

    def with_rate(self, rate: float) -> "Setting":
        """The same with one learning rate for all parameters."""
        recipe = replace(self.recipe, learning_rate=rate, dynamics=None)
        return replace(self, recipe=recipe, learning_rates=())

    def with_decay(self, decay: float) -> "Setting":
        """The same with one weight decay."""
        return replace(self, recipe=replace(self.recipe, weight_decay=decay), weight_decays=())

    def changed(
        self,
        learning_rate: float | None,
        weight_decay: float | None,
        width: int | None,
        depth: int | None,
    ) -> "Setting":
        """The same with what is given instead."""
        setting = self
        if width is not None:
            setting = replace(setting, widths=(width,))
        if depth is not None:
            setting = replace(setting, depth=depth)
        if learning_rate is not None:
            setting = setting.with_rate(learning_rate)
        if weight_decay is not None:
            setting = setting.with_decay(weight_decay)
        return setting

    def __str__(self) -> str:
        recipes = self.recipes
        rates = " ".join(f"{r:g}" for r in dict.fromkeys(r.learning_rate for r in recipes))
        decays = " ".join(f"{d:g}" for d in dict.fromkeys(r.weight_decay for r in recipes))
        parts = [
            self.source,
            self.backbone,
            f"depth {self.depth}" if self.depth else "",
            f"width {' '.join(map(str, self.widths))}" if self.widths else "",
            f"learning rate {rates}",
            f"{self.recipe.dynamics:g} for decays and steps" if self.recipe.dynamics else "",
            f"weight decay {decays}",
            f"dropout {self.recipe.dropout:g}" if self.recipe.dropout else "",
            f"until {self.enough:g} on validation" if self.enough is not None else "",
        ]
        return "; ".join(filter(None, parts))
