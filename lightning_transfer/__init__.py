"""Transfer learning in NLP, as PyTorch Lightning parts.

Public objects live in the subpackages: ``lightning_transfer.backbones``, ``.heads``, ``.tasks``,
``.callbacks``, ``.data``, ``.optim``. Importing this package imports neither torch nor
transformers, so that the command line answers at once.
"""

__version__ = "0.1.0"
