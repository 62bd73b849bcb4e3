"""Data files that are whole, and ways to damage them: by chance, or as somebody hostile would.

What is expected of `ddm.data.load` follows from the damage:

- REFUSED: an `InputError` that names the file; the damage can be seen in the file;
- SAME: the same, or the content of the whole file; its format has checksums (`.npz`);
- ANY: the same, or any content; nobody can tell a changed digit of a CSV or HDF5 file from another
  file.

Nothing else: no other error, and no crash.
"""

from damages.bench import Bench as Bench
from damages.bench import Outcome as Outcome
from damages.bench import formats as formats
from damages.bench import same as same
from damages.kinds import CHANCE as CHANCE
from damages.minari_sets import edit_metadata as edit_metadata
from damages.minari_sets import main_file as main_file
from damages.plain import plain as plain
from damages.saved import put as put
from damages.saved import whole as whole
