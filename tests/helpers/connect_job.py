"""A worker that only connects: start-up limit in seconds, SLURM's port."""

import sys

if __name__ == "__main__":
    import fda_tf

    process_group = fda_tf.connect(
        start_timeout=float(sys.argv[1]), port=int(sys.argv[2])
    )
    print(
        f"sum {process_group.sum(10 + process_group.index)} "
        f"of {process_group.count}"
    )
