"""Which files a job reads, and where the output of each is to stand."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from q8bert.runtime.scoring.options import ScoringOptions
from q8bert.runtime.scoring.reading.formats import ENDING_OF_FORMAT, FORMAT_OF_ENDING
from q8bert.spec.errors import InputError
from q8bert.spec.files import real_path
from q8bert.tasks.task import Task

__all__ = ["JOB_FOLDER", "Source", "find_sources"]

# readers of whole folders (Arrow, Spark, Ray) pass over names that begin with an underscore
JOB_FOLDER = "_q8bert"


@dataclass(frozen=True)
class Source:
    """One file of the job.

    Attributes:
        path: The file.
        target: Its output, relative to the folder of outputs.
        format: How it is written, of :data:`~q8bert.runtime.scoring.reading.formats.SCORED_FORMATS`.
        output_format: How its output is written.
        may_be_quoted: Whether nobody said that a tab-separated table is unquoted.
    """

    path: Path
    target: Path
    format: str
    output_format: str
    may_be_quoted: bool = False


def find_sources(inputs: Sequence[Path], output_dir: Path, options: ScoringOptions, task: Task) -> tuple[Source, ...]:
    """Find the files of a job: those that are named, and in folders those with a known ending, in order of their names.

    Args:
        inputs: Files and folders. In folders, names that begin with a dot or an underscore are passed over.
        output_dir: Folder of the outputs, in which the layout of a folder is kept.
        options: Say formats, where endings do not count.
        task: Says the format of tables whose ending leaves it open.

    Returns:
        The files.

    Raises:
        InputError: If there are none, one is missing, two would have one output, or outputs would be read as input.
    """
    sources: list[Source] = []
    for given in inputs:
        if given.is_dir():
            if real_path(output_dir).is_relative_to(real_path(given)):
                raise InputError(
                    f"the outputs in {output_dir} would be input of {given} the next time; put them elsewhere"
                )
            found = sorted(_files(given))
            if not found:
                raise InputError(f"{given} holds no file that ends in {', '.join(FORMAT_OF_ENDING)}")
            sources += [_source(path, path.relative_to(given), options, task) for path in found]
        elif given.is_file():
            sources.append(_source(given, Path(given.name), options, task))
        else:
            raise InputError(f"{given} does not exist, or is neither a file nor a folder")
    if not sources:
        raise InputError("no input was given; name files or folders")
    _refuse_shared_targets(sources, output_dir)
    return tuple(sources)


def _files(folder: Path) -> Iterator[Path]:
    def complain(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    for place, folders, names in os.walk(folder, onerror=complain):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            path = Path(place, name)
            if not name.startswith((".", "_")) and path.suffix.lower() in FORMAT_OF_ENDING and path.is_file():
                yield path


def _source(path: Path, target: Path, options: ScoringOptions, task: Task) -> Source:
    by_ending = FORMAT_OF_ENDING.get(path.suffix.lower())
    is_open = options.format is None and by_ending in {None, "tsv"}
    told = options.format or (task.data.format if is_open else None) or by_ending
    if told is None:
        raise InputError(
            f"{path}: its ending is none of {', '.join(FORMAT_OF_ENDING)}; say how it is written by --format"
        )
    output_format = options.output_format or told
    if output_format != told:
        target = target.with_suffix(ENDING_OF_FORMAT[output_format])
    if target.parts[0] == JOB_FOLDER:
        raise InputError(f"{path}: its output would stand in {JOB_FOLDER}, where the job keeps its records; rename it")
    return Source(path, target, told, output_format, may_be_quoted=is_open and task.data.format is None)


def _refuse_shared_targets(sources: Sequence[Source], output_dir: Path) -> None:
    by_target: dict[Path, Source] = {}
    for source in sources:
        other = by_target.setdefault(source.target, source)
        if other is not source:
            raise InputError(
                f"{other.path} and {source.path} would have one output, {output_dir / source.target}; score them into "
                "folders of their own, or rename one"
            )
