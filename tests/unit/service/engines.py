"""An engine with its scheduler on a fake backend, and requests to it."""

import orjson

from contract.card import GeneratorCard, TrainingReport
from contract.label_columns import LabelColumn, label_tokens
from contract.tokenizers import CharacterTokenizer, RegexTokenizer, WordTokenizer
from contract.tokenizers.regexes import join_regexes
from contract.training_filter import DOCUMENTS
from service.api.body import parse
from service.api.requests import CompletionRequest
from service.context import RequestContext
from service.engine import Engine
from service.errors import ModelNotFound
from service.generation.resume_tokens import ResumeTokens, state_keys
from service.models.registry import ServedModel
from service.scheduling.admission import AdmissionControl
from service.scheduling.queues import BatchLimits
from service.scheduling.scheduler import Scheduler
from service.scheduling.sequence import ModelVersion
from service.settings import Settings
from service.structured_outputs.compiler_pool import CompilerPool
from tests.fakes import NUM_TOP, STATE_SIZE, VOCABULARY, FakeBackend, FakeListener, FakeObserver
from tests.unit.contract.test_card import FIELDS

# The fake model ends a sequence at id 2, which must be the EOS token.
CHARACTERS = CharacterTokenizer.train("".join(chr(97 + i) for i in range(VOCABULARY - 3)), end_token=True)
WORDS = WordTokenizer.train(["the cat sat on a mat", " ".join(f"w{i}" for i in range(VOCABULARY - 9))])
COLUMNS = (LabelColumn(name="style", values=("early", "late")), LabelColumn.of_numbers("age", (18.0,)))
_LETTERS = CharacterTokenizer.train("".join(chr(97 + i) for i in range(VOCABULARY - 9)), end_token=True)
LABELED = _LETTERS.extended((), end_token=True, labels=label_tokens(COLUMNS))
# Characters, and matches of two of them and more.
_TOKENS = ["<pad>", "<unk>", "<end>", *'abcd[]{}":, 0123456789', "[a]", "[bb]", "[cd]", '"a":', "12", "bc"]
_OTHERS = map(chr, range(0x3B1, 0x3B1 + VOCABULARY - len(_TOKENS)))
MATCHES = RegexTokenizer([*_TOKENS, *_OTHERS], join_regexes([r"\[[a-d]+\]", '"a":', "12|bc"]))
KEYS = state_keys()
SETTINGS = Settings(max_prompt_tokens=1000, max_request_tokens=3000, max_logprobs_tokens=2000, prefix_cache_bytes=0)


class Models:
    """Models of several token units and both directions, on a fake backend."""

    def __init__(self):
        self.models = {"characters": CHARACTERS, "words": WORDS, "matches": MATCHES, "labeled": LABELED}

    def find_version(self, ref, *, may_use=None):  # noqa: ARG002 - the registry's signature
        return self.find(ref.name) if ref.number == 1 else None

    def find(self, name, seed=None, *, may_use=None):  # noqa: ARG002 - the registry's signature
        unit, _, backward = name.partition(" ")
        if unit not in self.models:
            raise ModelNotFound(f"model {unit!r} is not served", param="model")
        tokenizer = self.models[unit]
        assert len(tokenizer.tokens) == VOCABULARY
        fields = {"name": unit, "state_size": STATE_SIZE, "units": STATE_SIZE, "vocab_size": VOCABULARY}
        fields |= {"num_top": NUM_TOP, "activations": (("hidden", 1, STATE_SIZE),)}
        fields |= {"direction": "backward" if backward else "forward"}
        card = GeneratorCard(**{**FIELDS, **fields})
        if unit == "labeled":
            card = card.model_copy(update={"training": TrainingReport.model_construct(label_columns=COLUMNS)})
        return ServedModel(ModelVersion(name, 1), card, tokenizer, BatchLimits((8, 16), 8, 16), "fp")


def parsed(body_type, **fields):
    """Return a body as the server parses it."""
    return parse(body_type, orjson.dumps({"model": "characters", "timeout_s": 10.0, **fields}), SETTINGS)


def request(*prompts, **fields):
    options = {name: fields.pop(name) for name in ("prepend", "state_interval") if name in fields}
    if options:
        fields |= {"stream": True, "stream_options": options}
    return parsed(CompletionRequest, **{"prompt": prompts or "abc", "max_tokens": 12, "seed": 1, **fields})


class FakeFilters:
    """Training filters of any model: `contains` decides; None: there is no filter."""

    contains, kind = None, DOCUMENTS

    def get(self, model):  # noqa: ARG002 - the same of every model
        return self if self.contains else None


class Service:
    """An engine with its scheduler, on a fake backend."""

    def __init__(self, backend=None, **settings):
        self.backend, settings = backend or FakeBackend(), SETTINGS.model_copy(update=settings)
        self.scheduler = Scheduler(self.backend, settings, FakeObserver())
        self.scheduler.start()
        self.listener, self.compiler = FakeListener(), CompilerPool(settings, FakeListener().compiled)
        self.training_filters = FakeFilters()
        self.admission = AdmissionControl(settings.max_sequences, settings.max_queued_tokens)
        others = ResumeTokens(lambda: KEYS, 60.0), self.compiler, self.training_filters
        self.engine = Engine(Models(), self.scheduler, self.admission, self.listener, settings, *others)

    def close(self):
        """End the scheduler's thread and the compiler's process."""
        self.scheduler.stop()
        self.compiler.close()

    def start(self, *prompts, context=None, **fields):
        return self.engine.start_completion(request(*prompts, **fields), context or RequestContext())

    def results(self, *prompts, **fields):
        generation = self.start(*prompts, **fields)
        try:
            return generation.results()
        finally:
            generation.request.close()

    def calls(self):
        return [call.signature for call in self.backend.calls]
