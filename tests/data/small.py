"""What tests of data are made of: a small TFDS dataset, and a folder with a tokenizer."""

import json

import numpy as np
import tensorflow_datasets as tfds
import tokenizers as hf

from opd.data import builder

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
