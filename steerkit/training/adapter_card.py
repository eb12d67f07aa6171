"""What an adapter's folder says of itself: a record for programs, a card for people."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from steerkit.models import ThinkingModel
from steerkit.provenance import versions
from steerkit.training.adapter_config import AdapterConfig
from steerkit.training.chat_examples import ChatExamples
from steerkit.training.checkpoints import AdapterPosition


@dataclass(frozen=True)
class AdapterRecord:
    """How an adapter was made, and what was measured.

    Attributes
    ----------
    model, config, examples, position:
        The base, the recipe, the chains, and how far the run went.
    after:
        The held-out loss of the finished adapter, in nats per token, or ``None``.
    size:
        Numbers in the adapter's matrices.
    chains_name:
        What the chains are called.
    """

    model: ThinkingModel
    config: AdapterConfig
    examples: ChatExamples
    position: AdapterPosition
    after: float | None
    size: int
    chains_name: str

    def to_json(self, base: str) -> dict[str, Any]:
        """``training.json``; ``think`` is read when the adapter is loaded."""
        position = self.position
        return {
            "format": 1,
            "base": base,
            "think": list(self.model.think),
            "recipe": dataclasses.asdict(self.config),
            "chains": {
                "name": self.chains_name,
                "train": len(self.examples.train),
                "held_out": len(self.examples.held_out),
                "left_out": dict(sorted(self.examples.skipped.items())),
                "tasks": list(self.examples.tasks),
            },
            "figures": {
                "adapter_weights": self.size,
                "heldout_loss_before": position.before,
                "heldout_loss_after": self.after,
                "steps": position.step,
                "tokens": position.tokens,
                "seconds": round(position.seconds, 1),
            },
            "versions": versions(),
        }

    def card(self, name: str, base: str) -> str:
        """``README.md`` of the folder, as the Hub shows it."""
        config, position = self.config, self.position
        per_pass = -(-len(self.examples.train) // config.chains)
        before, after = position.before, self.after
        measured = "No chains were held out, so nothing was measured."
        if before is not None and after is not None:
            measured = _MEASURED.format(
                held_out=len(self.examples.held_out), before=before, after=after
            )
        left_out = ", ".join(f"{n} {why}" for why, n in sorted(self.examples.skipped.items()))
        context = self.chains_name or "chains of thought"
        return _CARD.format(
            name=name,
            base=base,
            think=self.model.think,
            config=config,
            targets=", ".join(f"`{target}`" for target in config.targets),
            size=self.size,
            chains=context,
            train=len(self.examples.train),
            left_out=f" Left out: {left_out}." if left_out else "",
            tokens=position.tokens,
            steps=position.step,
            passes=position.step / per_pass,
            minutes=position.seconds / 60,
            speed=position.tokens / max(position.seconds, 1e-9),
            device=self.model.device.type,
            dtype=str(self.model.dtype).removeprefix("torch."),
            measured=measured,
            template=_TEMPLATE if self.examples.chat_template is not None else "",
        )


_MEASURED = """\
Loss on {held_out} chains of tasks that were held out, in nats per response token: {before:.3f}
without the adapter, {after:.3f} with it, as it is in this folder. What a lower loss says is that
the model writes more as these chains are written; whether it reasons better is another question."""

_TEMPLATE = """
The folder brings a chat template: the base's, with the opening think string at the end of the
prompt. The loss counted that string too, so that the model was also trained to write it itself.
"""

_CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
---

# {name}

A LoRA adapter, trained to make {base} think before it answers: first a chain of thought that
ends in `{think[1]}`, then the answer. It is for the study of reasoning behaviours, with the base
beside it as the model that has not learned to think aloud.

## How it was made

Fitted by `steerkit train adapter` to {train} chains ({chains}).{left_out} Data digest
`{config.data}`, digest of the base's weights `{config.weights}`.

- Rank {config.rank}, alpha {config.alpha:g}, dropout {config.dropout:g}, on {targets}:
  {size:,} numbers, stored in float16.
- AdamW, peak learning rate {config.learning_rate:g} after {config.warmup_steps} steps, falling
  to zero over the last {config.decay:.0%} of the steps; gradients clipped at norm
  {config.clip:g}; seed {config.seed}.
- {steps} steps of up to {config.chains} chains of at most {config.longest} tokens
  ({passes:.2f} passes), {tokens:,} tokens. The loss counts responses only.
- The base in {dtype}, adapter and optimizer in float32, on the {device}: {minutes:.0f} minutes
  of training, {speed:.0f} tokens a second forward and backward.

## What was measured

{measured}

## How to load it

    import steerkit as sk
    model = sk.load("{base}", adapter="{name}")

with the folder's path, or, without steerkit, `PeftModel.from_pretrained(base, FOLDER)` of peft.
The adapter is merged into the weights. Directions extracted from the base can be used on the
model with the adapter.
{template}
## Licence

The adapter is made from the base and the chains, and what their licences ask for holds for it.
"""
