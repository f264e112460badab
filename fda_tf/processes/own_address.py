"""Keeps TensorFlow's port closed but on the address that the job gives.

TensorFlow's server listens on all addresses of the machine, whatever it is
told, and has no setting for it. On Linux a process may give its own listening
socket a filter (SO_ATTACH_FILTER, see socket(7)): here one that drops every
packet that is not for the address given. What it lets in, accepted
connections have, too.
"""

import ctypes
import ipaddress
import os
import socket
import struct
import sys

from absl import logging

# Classic BPF, as in <linux/filter.h>: loads, jumps and returns.
_LOAD_BYTE, _LOAD_WORD, _SHIFT_RIGHT = 0x30, 0x20, 0x74
_JUMP_IF_EQUAL, _RETURN = 0x15, 0x06
_NETWORK = 2**32 - 0x100000  # SKF_NET_OFF: counts from the network header
_DESTINATION = {4: 16, 6: 24}  # byte of the header at which it begins
_PASS, _DROP = 2**32 - 1, 0
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER


def close_others(host: str, port: int) -> bool:
    """Drops what comes to this process's port by another address.

    Args:
      host: the address, IPv4 or IPv6, that stays open; one of this machine.
        All stay open for what stands for all of them, such as 0.0.0.0.
      port: on which this process listens.

    Returns:
      Whether it could be done: not unless the system is Linux.
    """
    done = False
    if ipaddress.ip_address(host).is_unspecified:
        return done
    for listener in _listeners(port) if sys.platform == "linux" else ():
        with listener:
            try:
                _attach(listener, _program(host))
                done = True
            except OSError as error:
                logging.warning("Port %d cannot have a filter: %s", port, error)
    return done


def _program(host: str) -> bytes:
    """Returns the filter: of the right version, and every word as it is."""
    version = 6 if ":" in host else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = struct.unpack(f"!{len(packed) // 4}I", packed)
    first = _NETWORK + _DESTINATION[version]
    tests = [(_LOAD_BYTE, 0, 0, _NETWORK), (_SHIFT_RIGHT, 0, 0, 4)]
    compared = [
        (_LOAD_WORD, first + 4 * i, word) for i, word in enumerate(words)
    ]
    steps = len(tests) + 1 + 2 * len(words) + 2
    program = [*tests, (_JUMP_IF_EQUAL, 0, steps - 4, version)]
    for load, where, word in compared:
        program.append((load, 0, 0, where))
        to_drop = steps - len(program) - 2
        program.append((_JUMP_IF_EQUAL, 0, to_drop, word))
    program += [(_RETURN, 0, 0, _PASS), (_RETURN, 0, 0, _DROP)]
    return b"".join(struct.pack("HBBI", *step) for step in program)


def _attach(listener: socket.socket, program: bytes) -> None:
    kept = ctypes.create_string_buffer(program)  # until the call is done
    header = struct.pack("HL", len(program) // 8, ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, header)


def _listeners(port: int) -> list[socket.socket]:
    """Returns duplicates of this process's sockets that listen on a port."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:
            continue  # it was that of the folder
        try:
            candidate = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)  # no socket
            continue
        if _listens(candidate, port):
            found.append(candidate)
        else:
            candidate.close()
    return found


def _listens(candidate: socket.socket, port: int) -> bool:
    if candidate.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        listening = candidate.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        )
        return bool(listening) and candidate.getsockname()[1] == port
    except OSError:
        return False
