"""``tf.train.Example``, the message that a TFRecord holds: names of columns with lists of numbers or bytes.

Its definition is that of TensorFlow's ``example.proto`` and ``feature.proto``. It stands in a pool of its own, so that
it meets no other copy in the same process.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from q8bert.data.examples import CellError
from q8bert.machine.builds import require

__all__ = ["ExampleParser"]

# label and types of fields as descriptor.proto numbers them
_OPTIONAL, _REPEATED = 1, 3
_MESSAGE, _STRING, _BYTES, _FLOAT, _INT64 = 11, 9, 12, 2, 3
_LISTS = {"BytesList": _BYTES, "FloatList": _FLOAT, "Int64List": _INT64}
_KINDS = {"bytes_list": "BytesList", "float_list": "FloatList", "int64_list": "Int64List"}
_DTYPES: Mapping[str, Any] = {"bytes_list": np.object_, "float_list": np.float32, "int64_list": np.int64}


class ExampleParser:
    """Reads one message after the other.

    Raises:
        MissingExtraError: If ``protobuf`` is not installed.
    """

    def __init__(self) -> None:
        require("google", extra="tfrecord", purpose="reading TFRecord files")
        require("google.protobuf", extra="tfrecord", purpose="reading TFRecord files")
        from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory  # noqa: PLC0415 - optional

        pool = descriptor_pool.DescriptorPool()
        pool.Add(_definition(descriptor_pb2))
        self._message = message_factory.GetMessageClass(pool.FindMessageTypeByName("q8bert.tf.Example"))
        self._fault = message.DecodeError

    def columns(self, record: bytes) -> dict[str, NDArray[Any]]:
        """Read one record.

        Args:
            record: Its content.

        Returns:
            Its columns: int64, float32 or objects that are bytes, each of one dimension.

        Raises:
            CellError: If it is no such message, or a column has no list.
        """
        found = self._message()
        try:
            found.ParseFromString(record)
        except self._fault as error:
            raise CellError("-", record[:16], f"the record is no tf.train.Example ({error})") from error
        columns = {}
        for name, feature in found.features.feature.items():
            kind = feature.WhichOneof("kind")
            if kind is None:
                raise CellError(name, None, "the column holds no list")
            values = getattr(feature, kind).value
            columns[name] = np.fromiter(values, dtype=_DTYPES[kind], count=len(values))
        if not columns:
            raise CellError("-", record[:16], "the record has no columns")
        return columns


def _definition(descriptor_pb2: Any) -> Any:
    """Return the definition of the message, as a compiler of ``.proto`` files would."""
    file = descriptor_pb2.FileDescriptorProto(name="q8bert/tf_example.proto", package="q8bert.tf", syntax="proto3")
    for list_name, kind in _LISTS.items():
        message = file.message_type.add(name=list_name)
        message.field.add(name="value", number=1, type=kind, label=_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, list_name) in enumerate(_KINDS.items(), start=1):
        feature.field.add(
            name=name, number=number, type=_MESSAGE, type_name=f".q8bert.tf.{list_name}", label=_OPTIONAL, oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_STRING, label=_OPTIONAL)
    entry.field.add(name="value", number=2, type=_MESSAGE, type_name=".q8bert.tf.Feature", label=_OPTIONAL)
    features.field.add(
        name="feature", number=1, type=_MESSAGE, type_name=".q8bert.tf.Features.FeatureEntry", label=_REPEATED
    )
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=_MESSAGE, type_name=".q8bert.tf.Features", label=_OPTIONAL)
    return file
