"""Who takes part in a round of the simulation, and in its synchronisation."""

import tensorflow as tf

from fda_tf import validate


class Round:
    """C of K clients, drawn with a seed; or all, of whom some come late.

    Workers have a place, 0 .. C-1, in a round, and a number, 0 .. K-1, for
    good: the client.

    Args:
      clients: K.
      clients_per_round: C; None: all K, each in its place.
      straggler_rate: the chance with which one misses a synchronisation.
      seed: of the draws.

    Attributes:
      count: C.
      apart: whether models may differ just after a synchronisation.

    Raises:
      ValueError: for C outside 2 .. K, a chance outside [0, 1), or both.
    """

    def __init__(
        self,
        clients: int,
        clients_per_round: int | None = None,
        straggler_rate: float = 0.0,
        seed: int = 0,
    ):
        what = "a chance of at least 0, below 1"
        self._straggler_rate = validate.real(
            "straggler_rate", straggler_rate, 0.0, what
        )
        if straggler_rate >= 1:
            raise ValueError(
                f"straggler_rate={straggler_rate!r}: expected {what}."
            )
        self._clients, self._seed = clients, seed
        self.apart = straggler_rate > 0
        self.count, self._drawn = clients, clients_per_round is not None
        if self._drawn:
            self.count = validate.count(
                "clients_per_round", clients_per_round, "workers"
            )
            if not 2 <= self.count <= clients:
                raise ValueError(
                    f"clients_per_round={clients_per_round}: expected 2 to "
                    f"{clients}, the number of workers; one alone would have "
                    "no average."
                )
        if self._drawn and self.apart:
            raise ValueError(
                "clients_per_round= and straggler_rate= together have no "
                "meaning: who missed the end of a round may not be in the "
                "next. Give one of them."
            )
        self._number = _variable(0, tf.int64, "round")
        self._places = _variable(tf.range(self.count), tf.int32, "clients")
        taken = tf.zeros([clients if self._drawn else 0], tf.int64)
        self._taken = _variable(taken, tf.int64, "taken")
        present = tf.ones([clients if self.apart else 0], tf.bool)
        self._present = _variable(present, tf.bool, "present")
        if self._drawn:
            self._draw()

    @property
    def variables(self) -> list[tf.Variable]:
        """What it keeps: for checkpoints."""
        return [self._number, self._places, self._taken, self._present]

    @property
    def settings(self) -> dict[str, float | None]:
        """What it is set to, besides the workers and the seed."""
        clients_per_round = self.count if self._drawn else None
        return {
            "clients_per_round": clients_per_round,
            "straggler_rate": self._straggler_rate,
        }

    def client(self, place: tf.Tensor) -> tf.Tensor:
        """Returns the number of the client in a place."""
        return self._places[place] if self._drawn else place

    def of_clients(self, values: tf.Tensor) -> tf.Tensor:
        """Returns values [K] of all clients as those of this round, [C]."""
        return tf.gather(values, self._places) if self._drawn else values

    def step_of(self, client: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns the client's own step, and counts it as done.

        Args:
          client: its number.
          step: of the run.
        """
        if not self._drawn:
            return step
        own = tf.gather(self._taken, client)
        one = tf.IndexedSlices(tf.ones([], tf.int64), client)
        self._taken.scatter_add(one)
        return own

    def choose_participants(self, step: tf.Tensor, everyone: bool) -> None:
        """Settles who takes part in the synchronisation after a step."""
        if not self.apart:
            return
        seed = [self._seed, tf.cast(step, tf.int32)]
        chance = tf.random.stateless_uniform([self.count], seed)
        # Of all that might, one at least does.
        present = (chance >= self._straggler_rate) | (
            chance >= tf.reduce_max(chance)
        )
        self._present.assign(present | everyone)

    def shares(self, shares: tf.Tensor | None) -> tf.Tensor | None:
        """Returns the shares of a mean, 0 for those who miss it."""
        if not self.apart:
            return shares
        own = tf.cast(self._present.read_value(), tf.float32)
        return own if shares is None else own * shares

    def attends(self, place: tf.Tensor) -> tf.Tensor | bool:
        """Returns whether the worker of a place was there."""
        return self._present[place] if self.apart else True

    def begin(self) -> None:
        """Begins the next round: draws who takes part."""
        if self._drawn:
            self._number.assign_add(1)
            self._draw()

    def _draw(self) -> None:
        seed = [self._seed, tf.cast(self._number.read_value(), tf.int32)]
        lots = tf.random.stateless_uniform([self._clients], seed)
        _, drawn = tf.math.top_k(lots, self.count)
        self._places.assign(tf.sort(drawn))


def _variable(value, dtype, name) -> tf.Variable:
    return tf.Variable(value, dtype=dtype, trainable=False, name=name)
