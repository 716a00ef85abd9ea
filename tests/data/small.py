"""What tests of data are made of: small sources of every task, and a folder with a tokenizer."""

import json

import numpy as np
import tensorflow_datasets as tfds
import tokenizers as hf

from opd.data import builder, gsm8k

ROWS = [{"prompt": f"{n}+{n}=", "answer": str(2 * n), "sum": 2 * n, "x": 0.5} for n in range(12)]


class Sums(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two splits of sums."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}

    def __init__(self, rows, **kwargs):
        self.rows = rows
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        kinds = {"prompt": tfds.features.Text(), "answer": tfds.features.Text()}
        kinds |= {"sum": np.int32, "x": np.float32}
        features = tfds.features.FeaturesDict({name: kinds[name] for name in self.rows[0]})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            "train": self._generate_examples(self.rows),
            "test": self._generate_examples(self.rows[:3]),
        }

    def _generate_examples(self, rows):
        yield from enumerate(rows)


def prepare(folder, rows=ROWS):
    """The dataset `sums` under a folder; its own."""
    builder.write(Sums(rows, data_dir=folder))
    return folder / "sums" / "1.0.0"


SIZES = {"train": 20, "validation": 8, "test": 8, "length": 10}


def jsonl_file(folder, rows):
    path = folder / "prompts.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(text + "\n" for text in lines), encoding="utf-8")
    return str(path)


def gsm8k_folder(folder, count=8):
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"{n} + 1?", "answer": f"so {n + 1}\n#### {n + 1}"} for n in range(count)]
    for name in gsm8k.FILES:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def _jsonl(folder):
    return {"prompts": jsonl_file(folder, [{"prompt": f"{n}?", "answer": n} for n in range(40)])}


def _gsm8k(folder):
    path = gsm8k_folder(folder / "gsm8k", 40)
    asked = (folder / "gsm8k" / "test.jsonl").read_text().replace(" + 1?", " and 1?")
    (folder / "gsm8k" / "test.jsonl").write_text(asked)
    return {"path": path}


def _tfds(folder):
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(40)]
    prepare(folder / "tfds", rows)
    return {"prompts": "tfds:sums"}


# Of tasks that read files: what writes small ones into a folder and says the keys of `data` that
# find them, TFDS_DATA_DIR being its `tfds`. A task that makes its examples needs no line.
SOURCES = {"gsm8k": _gsm8k, "jsonl": _jsonl, "tfds": _tfds}

CORPUS = ["a hundred hens lay a hundred eggs", "37 + 45 = 82", "ça coûte 5 €\n"] * 4


def byte_level() -> hf.Tokenizer:
    """As GPT-2, Qwen and Llama 3 have it: merges of bytes, specials above them."""
    made = hf.Tokenizer(hf.models.BPE())
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    trainer = hf.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(["<|end|>", "<|user|>", "<|model|>", "<|pad|>"])
    return made


def write(folder, made, files=None, **described):
    """A folder with this tokenizer, a tokenizer_config.json and further JSON files."""
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast"} | described
    for name, content in {"tokenizer_config.json": described, **(files or {})}.items():
        (folder / name).write_text(json.dumps(content))
    return folder
