"""An open_clip model for those attributes alone that name it."""

from __future__ import annotations

from harness.spec.attributes import AttributeSpec
from harness.spec.sections import ClassifierSpec, Fit, InstrumentSpec
from probes.contracts import Instrument
from probes.instruments.clip import ClipAttribute, ClipModel
from probes.instruments.kinds import Kind, KindOptions, Reader, register


class OpenClipOptions(KindOptions):
    """As a classifier of the spec, for the attributes that name it.

    Attributes:
        open_clip: architecture, 'hf-hub:owner/name', 'local-dir:FOLDER' or 'reference:NAME'.
        pretrained: with an architecture: open_clip tag or .safetensors file.
    """

    open_clip: str
    pretrained: str | None = None


@register
class OpenClip(Kind[OpenClipOptions]):
    """Class prompts weighed by an open_clip model."""

    name = "open_clip"
    Options = OpenClipOptions

    def reader(
        self, name: str, options: OpenClipOptions, common: InstrumentSpec, fit: Fit
    ) -> Reader:
        """A reader of class prompts."""
        spec = ClassifierSpec(
            model=options.open_clip,
            pretrained=options.pretrained,
            **common.model_dump(include=set(InstrumentSpec.model_fields)),
        )
        return PromptReader(ClipModel(name, spec, fit))


class PromptReader:
    """A model that weighs images against the prompts of classes.

    Args:
        model: The model.
    """

    def __init__(self, model: ClipModel) -> None:
        self.model = model

    def instrument(self, attribute: AttributeSpec) -> Instrument:
        """What reads one attribute.

        Raises:
            AuditError: A class has no prompts.
        """
        attribute.refuse_without_prompts(self.model.name)
        return ClipAttribute(self.model, attribute)
