"""Where the time of a block goes, by TensorFlow's profiler."""

import collections
import pathlib
import tempfile
from collections.abc import Callable


def operations(run: Callable[[], object]) -> dict[str, float]:
    """Returns type of operation -> its milliseconds on all threads, by size.

    An operation that waits for others without a thread (a collective) counts
    from its start to its end.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    times: dict = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        for path in pathlib.Path(folder).rglob("*.xplane.pb"):
            space = xplane_pb2.XSpace.FromString(path.read_bytes())
            for plane in space.planes:
                for line in plane.lines:
                    for event in line.events:
                        name = plane.event_metadata[event.metadata_id].name
                        # Operations are "name in the graph:type".
                        if ":" in name and "::" not in name and " " not in name:
                            times[name.split(":")[-1]] += event.duration_ps
    return {name: ps / 1e9 for name, ps in times.most_common()}
