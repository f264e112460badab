"""A worker that looks by which addresses its own port can be reached."""

import json
import os
import socket


def answers(host, port):
    """Returns whether a connection is accepted; a dropped one times out."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except TimeoutError:
        return False
    return True


if __name__ == "__main__":
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    config = json.loads(os.environ["TF_CONFIG"])
    own = config["cluster"]["worker"][process_group.index]
    port = int(own.split(":")[1])
    seen = [
        f"{host} {answers(host, port)}" for host in ("127.0.0.1", "127.0.0.3")
    ]
    print(
        ", ".join(seen) + f", sum {process_group.sum(1 + process_group.index)}"
    )
