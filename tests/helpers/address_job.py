"""A worker that looks by which addresses its own port can be reached."""

import json
import os

if __name__ == "__main__":
    import test_own_address

    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    config = json.loads(os.environ["TF_CONFIG"])
    own = config["cluster"]["worker"][process_group.index]
    port = int(own.split(":")[1])
    seen = [
        f"{host} {test_own_address.answers(host, port)}"
        for host in ("127.0.0.1", "127.0.0.3")
    ]
    print(
        ", ".join(seen) + f", sum {process_group.sum(1 + process_group.index)}"
    )
