"""`actune` with a corpus to practise on that the test made, in $ACTUNE_TEST_CORPUS."""

import os
import sys
from pathlib import Path

from actune.cli import app
from actune.tune import corpus

corpus.CORPUS = Path(os.environ["ACTUNE_TEST_CORPUS"])
corpus.MOST_TOKENS_A_CHARACTER = 9  # the tiny tokenizer knows no word of any language
app()(sys.argv[1:])
