"""What a job keeps beside its outputs, so that it can be started again: what it is, and which files are done.

``_q8bert/job.json`` says which bundle answers and how. ``_q8bert/files/NAME.json`` says of an output which input it was
made of. It is written twice: before the work, which makes the output the job's own, and after the output stands whole.
So an output without a record is somebody else's, and one whose record has no ``output_bytes`` is to be made again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from q8bert.runtime.scoring.reading.inputs import JOB_FOLDER, Source
from q8bert.spec.decode import decode
from q8bert.spec.errors import InputError
from q8bert.spec.files import output_errors, read_json, sha256_of, write_json
from q8bert.spec.folders import remove_folder

__all__ = ["FileRecord", "Fingerprint", "Job", "fingerprint"]

_VERSION = 1


@dataclass(frozen=True)
class Fingerprint:
    """What tells an input from what it was.

    Attributes:
        size: Bytes.
        mtime_ns: Time of its last change, nanoseconds.
        sha256: SHA-256 of its bytes, hexadecimal.
    """

    size: int
    mtime_ns: int
    sha256: str

    def is_of(self, path: Path) -> bool:
        """Whether a file has these bytes; they are read only where the time of the last change is another."""
        facts = path.stat()
        if facts.st_size != self.size:
            return False
        return facts.st_mtime_ns == self.mtime_ns or sha256_of(path) == self.sha256


@dataclass(frozen=True)
class FileRecord:
    """What is kept of one output.

    Attributes:
        input: Where the input stood, for people.
        fingerprint: What it was.
        output_bytes: Bytes of the output that was made of it; -1 while it is not finished.
        n_rows: Rows.
        n_truncated: Rows that lost tokens.
        n_malformed: Rows without an answer.
    """

    input: str
    fingerprint: Fingerprint
    output_bytes: int = -1
    n_rows: int = 0
    n_truncated: int = 0
    n_malformed: int = 0


def fingerprint(path: Path) -> Fingerprint:
    """Read a file and return its fingerprint.

    Args:
        path: The file.

    Returns:
        The fingerprint.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        facts = path.stat()
        return Fingerprint(facts.st_size, facts.st_mtime_ns, sha256_of(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Job:
    """A folder of outputs and what is known of them.

    Attributes:
        output_dir: The folder.
        bundle_digest: Which bundle answers.
        options: What its answers depend on besides.
    """

    output_dir: Path
    bundle_digest: str
    options: Mapping[str, object]

    def refuse_mixture(self, sources: Sequence[Source], *, overwrite: bool) -> bool:
        """See that nothing in the folder is another job's, or nobody's.

        Args:
            sources: The files of the job.
            overwrite: Whether what another job left, or what nobody knows of, may be replaced.

        Returns:
            Whether this job was begun before.

        Raises:
            InputError: If it is another job's that has outputs, or a file stands where an output is to stand.
        """
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise InputError(f"{self.output_dir} is no folder; outputs are written into one, a file for each input")
        found, ours = self._found(), self._told()
        if found is not None and found != ours and not overwrite and self._has_outputs():
            raise InputError(self._of_another_job(found, ours))
        if not overwrite:
            for source in sources:
                if self.target(source).exists() and not self._record(source).is_file():
                    raise InputError(
                        f"{self.target(source)} stands there already and is no work of this job. Give another "
                        "--output-dir, or replace it with --overwrite"
                    )
        return found == ours

    def begin(self) -> None:
        """Make the folder this job's; what is known of another one is forgotten.

        Raises:
            OutputError: If it cannot be written.
        """
        found, ours = self._found(), self._told()
        if found == ours:
            return
        if found is not None:
            remove_folder(self._folder)
        _make_folder(self._folder)
        write_json(self._folder / "job.json", ours)

    def target(self, source: Source) -> Path:
        """Return where the output of a file stands."""
        return self.output_dir / source.target

    def finished(self, source: Source) -> FileRecord | None:
        """Return the record of a file whose output stands whole, and is of what the input is now; None otherwise."""
        record, target = self.known(source), self.target(source)
        if record is None or not target.is_file() or target.stat().st_size != record.output_bytes:
            return None
        return record if record.fingerprint.is_of(source.path) else None

    def known(self, source: Source) -> FileRecord | None:
        """Return the record of a file, finished or not; None where there is none that can be read."""
        try:
            return decode(FileRecord, read_json(self._record(source)))
        except (OSError, ValueError):  # a ConfigError is one
            return None

    def write(self, source: Source, record: FileRecord) -> None:
        """Keep the record of a file.

        Args:
            source: The file.
            record: What is to be kept.

        Raises:
            OutputError: If it cannot be written.
        """
        path = self._record(source)
        _make_folder(path.parent)
        _make_folder(self.target(source).parent)
        write_json(path, asdict(record))

    @property
    def _folder(self) -> Path:
        return self.output_dir / JOB_FOLDER

    def _record(self, source: Source) -> Path:
        place = self._folder / "files" / source.target
        return place.with_name(f"{place.name}.json")

    def _told(self) -> dict[str, object]:
        told = {"format_version": _VERSION, "bundle": self.bundle_digest, "options": dict(self.options)}
        kept: dict[str, object] = json.loads(json.dumps(told, default=str))  # in the form in which it is kept
        return kept

    def _has_outputs(self) -> bool:
        # a job that stopped before its first output has nothing to be mixed with
        files = self._folder / "files"
        places = (path.relative_to(files).with_suffix("") for path in files.rglob("*.json"))
        return any((self.output_dir / place).exists() for place in places)

    def _found(self) -> dict[str, object] | None:
        path = self._folder / "job.json"
        if not path.exists():
            return None
        try:
            return read_json(path)
        except (OSError, ValueError):
            return {}

    def _of_another_job(self, found: Mapping[str, object], ours: Mapping[str, object]) -> str:
        what = f"{self.output_dir} holds outputs of another job: "
        if not found:
            what += "what is known of it cannot be read"
        elif found.get("format_version") != _VERSION:
            what += "one of another release"
        elif found.get("bundle") != ours["bundle"]:
            what += f"bundle {str(found.get('bundle'))[:12]}… answered, this one is {self.bundle_digest[:12]}…"
        else:
            old, new = found.get("options"), self.options
            old = old if isinstance(old, Mapping) else {}
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            what += ", ".join(f"{name} was {_told(old, name)}, now it is {_told(new, name)}" for name in names)
        return f"{what}. Answers are not mixed: give another --output-dir, or --overwrite to score all of them anew"


def _told(options: Mapping[str, object], name: str) -> str:
    return repr(options[name]) if name in options else "not given"


def _make_folder(folder: Path) -> None:
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
