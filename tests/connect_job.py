"""A worker that only connects, with a start-up limit in seconds."""

import sys

if __name__ == "__main__":
    import fda_tf

    fda_tf.connect(start_timeout=float(sys.argv[1]))
    print("connected")
