"""A reader of TensorBoard event files."""

import struct

from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """(tag, step) -> value, out of the records of every event file: length, CRC, bytes, CRC."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while len(data) > 12:  # a record being written may lack its end
            (size,) = struct.unpack_from("<Q", data)
            record, data = data[12 : 12 + size], data[16 + size :]
            event = Event.FromString(record if len(record) == size else b"")
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
    return found
