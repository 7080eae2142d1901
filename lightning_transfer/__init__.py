"""Transfer learning in NLP with PyTorch Lightning.

Import public objects from the subpackages: ``lightning_transfer.backbones``, ``.heads``,
``.tasks``, ``.callbacks``, ``.data``, ``.optim``. This package itself imports neither torch nor
transformers, so that the command line starts without delay.
"""

__version__ = "0.1.0"
