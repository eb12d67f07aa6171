"""Chains for Countdown: a depth-first search with taste, dead ends and moods."""

from __future__ import annotations

import random

from steerkit.puzzles.countdown import CountdownTask, Step, expression, reachable, steps
from steerkit.puzzles.narration import GIVEN_UP, Chain, Narrator, listed


def write_countdown_chain(task: CountdownTask, dice: random.Random) -> Chain:
    """A chain for a solvable task of three or four numbers.

    Steps are tried in random order, those that lead on a little sooner than chance. One
    from which the target cannot be reached is left after a try or two, or dropped at once.
    """
    return _Search(task, dice).write()


class _Search(Narrator):
    def __init__(self, task: CountdownTask, dice: random.Random) -> None:
        super().__init__(dice)
        self.task = task

    def write(self) -> Chain:
        self._open()
        solution = self._explore(self.task.numbers)
        if solution is None:
            self.say("giving up", n=self.task.target)
            return self.end(GIVEN_UP)
        found = expression(solution)
        if self.chance(0.4):
            self.say("hit", n=self.task.target)
        if self.chance(0.85):
            self.say("conclusion", left=found, right=self.task.target)
        return self.end(f"The answer is {found}.")

    def _live(self, left: tuple[int, ...]) -> bool:
        return self.task.target in reachable(left)

    def _order(self, step: Step) -> Step:
        return step.swapped() if self.chance(0.5) else step

    def _open(self) -> None:
        numbers = listed(self.task.numbers)
        if self.chance(self.style.restating):
            self.say("restate", n=self.task.target, numbers=numbers)
            if self.chance(0.3):
                self.say("rules")
        if self.chance(1.6 * self.style.knowing):
            self.know(self.task.numbers)
        if self.chance(1.6 * self.style.knowing):
            self.know((self.task.target,))
        self.mood(0.3 * self.style.doubting, "hope")
        self.new_line()

    def _explore(self, numbers: tuple[int, ...]) -> tuple[Step, ...] | None:
        """Search below ``numbers``; the steps of a solution, or ``None`` when it is left."""
        if len(numbers) == 2:
            return self._last_step(numbers)
        first_level = numbers == self.task.numbers
        options = list(steps(numbers))
        # steps that lead on come a little sooner than chance: a reasoner has some taste
        options.sort(key=lambda entry: self.dice.random() ** (1.6 if self._live(entry[1]) else 1.0))
        if not first_level:
            # what leads nowhere is not searched to its end
            options = options[: 6 if self._live(numbers) else 1 + self.chance(0.4)]
        for number, (step, left) in enumerate(options):
            if number:
                self._turn(numbers)
            shown = self._order(step)
            self._step(shown, left)
            if not self._live(left) and self.chance(0.12 * (len(left) - 1)):
                self._prune(left)
            else:
                later = self._explore(left)
                if later is not None:
                    return (shown, *later)
            if self.tired:
                return None
            if number and self.chance(0.3 * self.style.wandering):
                options.insert(number + 1, options[self.dice.randrange(number)])
        return None

    def _turn(self, numbers: tuple[int, ...]) -> None:
        """From a dead end to the next step, with or without a word about it."""
        self.new_line()
        if self.chance(self.style.going_back):
            if self.chance(0.2):
                self.say("start over", numbers=listed(numbers))
            else:
                self.say("go back")
        self.mood(0.2 * self.style.doubting, "doubt")
        if self.chance(0.7 * self.style.knowing):
            self.know((self.task.target, *numbers))

    def _step(self, step: Step, left: tuple[int, ...]) -> None:
        live = self._live(left)
        doubt = self.style.doubting * (0.4 if live else 0.6)
        # a guess about what comes is right more often than not, and often wrong
        mood = "hope" if self.chance(0.65 if live else 0.3) else "doubt"
        if self.chance(self.style.trying):
            first_level = len(left) == len(self.task.numbers) - 1
            self.say("try" if first_level else "try next", pair=step.pair)
        self.mood(doubt, mood)
        self.say("step", left=step.pair, right=step.result)
        if self.chance(0.4 * self.style.knowing):
            self.know(left)
        if self.chance(0.5 if len(left) == 2 else 0.9):
            shown = left if self.chance(0.7) else left[::-1]
            self.say("left over", numbers=listed(shown))
        self.mood(0.6 * doubt, mood)

    def _prune(self, left: tuple[int, ...]) -> None:
        if len(left) == 2:
            self.say("pruned", right=left[0], n=self.task.target)
        else:
            self.say("pruned set", numbers=listed(left), n=self.task.target)

    def _last_step(self, numbers: tuple[int, ...]) -> tuple[Step, ...] | None:
        """Operations on the last two numbers: some that miss, then one that hits, if any does."""
        found = [step for step, _ in steps(numbers)]
        hits = [step for step in found if step.result == self.task.target]
        misses = [step for step in found if step not in hits]
        count = int(self.chance(0.25)) if hits else 1 + self.chance(0.25)
        for number, step in enumerate(self.dice.sample(misses, min(len(misses), count))):
            if number and self.chance(0.6 * self.style.going_back):
                self.say("go back")
            step = self._order(step)
            if self.chance(0.45 * self.style.trying):
                self.say("try next", pair=step.pair)
            self.miss(step.pair, step.result, self.task.target)
            if self.tired or (hits and self.chance(self.style.wandering)):
                return None
        if not found:
            self._prune(numbers)
        if not hits:
            return None
        step = self._order(self.dice.choice(hits))
        if self.chance(0.45 * self.style.trying):
            self.say("try next", pair=step.pair)
        self.say("step", left=step.pair, right=step.result)
        return (step,)
