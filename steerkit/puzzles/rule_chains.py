"""Chains for rule induction: rules through one example, tested on the others or not."""

from __future__ import annotations

import random

from steerkit.puzzles.narration import GIVEN_UP, Chain, Narrator, listed
from steerkit.puzzles.rules import Example, Rule, RuleTask, rules_through


def write_rule_chain(task: RuleTask, dice: random.Random) -> Chain:
    """A chain for a task with one rule behind it.

    Rules through one example are proposed in random order and tested on the other examples
    by a chain that takes care.
    """
    return _Search(task, dice).write()


class _Search(Narrator):
    def __init__(self, task: RuleTask, dice: random.Random) -> None:
        super().__init__(dice)
        self.task = task

    def write(self) -> Chain:
        self._open()
        pivot = self.dice.choice(self.task.examples)
        others = [example for example in self.task.examples if example != pivot]
        # negative numbers have no place in these chains, so nor do rules that lead to them
        inputs = [self.task.query, *(x for x, _ in self.task.examples)]
        options = [r for r in rules_through(pivot) if all(r(x) >= 0 for x in inputs)]
        self.dice.shuffle(options)
        for number, rule in enumerate(options):
            if number:
                self._turn(pivot)
            self._propose(rule, pivot)
            tested = self._test(rule, others)
            if tested is not None:
                return self._answer(rule, proven=tested == len(others))
            if self.tired:
                break
            if number and self.chance(0.3 * self.style.wandering):
                options.insert(number + 1, options[self.dice.randrange(number)])
        self.say("giving up rule")
        return self.end(GIVEN_UP)

    def _open(self) -> None:
        given = listed(tuple(f"{x} to {y}" for x, y in self.task.examples))
        if self.chance(self.style.restating):
            self.say("restate rule", given=given, n=self.task.query)
            if self.chance(0.3):
                self.say("rules of rules")
        if self.chance(1.2 * self.style.knowing):
            self.say("about rules")
        if self.chance(1.2 * self.style.knowing):
            self.know(tuple(number for example in self.task.examples for number in example))
        self.new_line()

    def _turn(self, pivot: Example) -> None:
        self.new_line()
        if self.chance(self.style.going_back):
            self.say("drop rule")
        if self.chance(0.7 * self.style.knowing):
            if self.chance(0.5):
                self.say("about rules")
            else:
                self.know(pivot)

    def _propose(self, rule: Rule, pivot: Example) -> None:
        """Work the rule out from one example, then say it."""
        x, y = pivot
        product = y - rule.shift
        if rule.squared or rule.factor > 1:
            left = f"{x} * {x}" if rule.squared else f"{rule.factor} * {x}"
            if self.chance(self.style.trying):
                self.say("try", pair=left)
            self.say("step", left=left, right=product)
        if rule.shift:
            larger, smaller = max(y, product), min(y, product)
            self.say("step", left=f"{larger} - {smaller}", right=abs(rule.shift))
        self.say("propose", rule=rule, n=x, right=y)
        right = rule in self.task.rules
        self.mood(
            self.style.doubting * (0.5 if right else 0.7),
            "hope rule" if self.chance(0.65 if right else 0.35) else "doubt rule",
        )

    def _test(self, rule: Rule, others: list[Example]) -> int | None:
        """How many tests the rule passes before no more are made; ``None`` if it fails one."""
        for tested, (x, y) in enumerate(self.dice.sample(others, len(others))):
            if not self.chance(self.style.care):
                return tested
            if self.chance(0.3 + 0.7 * self.style.trying):
                self.say("test", n=x)
            output = rule(x)
            if output != y:
                self._compute(rule, x, wanted=y)
                return None
            self._compute(rule, x)
            self.say("fits", rule=rule, n=x)
        return len(others)

    def _compute(self, rule: Rule, x: int, wanted: int | None = None) -> None:
        """The rule's value at ``x``, an operation a sentence; the last may miss ``wanted``."""
        parts: list[tuple[str, int]] = []
        product = (x if rule.squared else rule.factor) * x
        if rule.squared or rule.factor > 1:
            parts.append((f"{x if rule.squared else rule.factor} * {x}", product))
        if rule.shift:
            sign = "+" if rule.shift > 0 else "-"
            parts.append((f"{product} {sign} {abs(rule.shift)}", product + rule.shift))
        if not parts:  # the rule is x itself
            return
        for left, result in parts[:-1]:
            self.say("step", left=left, right=result)
        left, result = parts[-1]
        if wanted is None:
            self.say("step", left=left, right=result)
        else:
            self.miss(left, result, wanted)

    def _answer(self, rule: Rule, *, proven: bool) -> Chain:
        self.new_line()
        if self.chance(0.7):
            self.say("rule proven" if proven else "rule found", rule=rule)
        self._compute(rule, self.task.query)
        output = rule(self.task.query)
        if self.chance(0.6):
            self.say("rule applied", n=self.task.query, right=output)
        return self.end(f"The answer is {output}.")
