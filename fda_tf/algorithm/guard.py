"""A guard on the average: what to do with a worker that is far off."""

import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm.part import Part

ACTIONS = ("drop", "clip")


class OutlierGuard(Part):
    """Clips, or leaves out, a drift much longer than the others.

    A drift is too long when ||u_k|| > factor x median_j ||u_j||, or when it
    is not finite. It is then left out of the average ("drop"), or scaled to
    that length ("clip"; one that is not finite is left out all the same). The
    worker takes the new w_0 as all others do.

    The average that evaluation sees, in mid-round, is guarded alike.

    It costs one more exchange of K numbers before each synchronisation and
    evaluation, and looks at lengths only: it holds off a broken worker, not a
    cunning one. The checks of a `VarianceThreshold` see the worker as it is:
    one that is far off makes all synchronise often, and a drift that is not
    finite raises FloatingPointError at the check, before any guard. Where
    nothing is checked, as with `Every`, the guard leaves it out.

    Args:
      factor: above 1.
      action: one of `ACTIONS`.

    Raises:
      ValueError: for a factor that is not above 1, or an unknown action.

    Example:
      >>> norms = tf.constant([1.0, 2.0, 1.0, 90.0])
      >>> scales, shares = OutlierGuard(factor=3.0, action="clip").judge(norms)
      >>> [round(float(s), 3) for s in scales]
      [1.0, 1.0, 1.0, 0.05]
      >>> OutlierGuard(factor=3.0).judge(norms)[1].numpy().tolist()
      [1.0, 1.0, 1.0, 0.0]
    """

    def __init__(self, factor: float = 3.0, action: str = "drop"):
        self.factor = validate.real(
            "OutlierGuard: factor", factor, 1.0, "above 1"
        )
        if self.factor == 1:
            raise ValueError(
                "OutlierGuard: factor=1: expected a number above 1; half of "
                "all workers would be too far off."
            )
        if action not in ACTIONS:
            raise ValueError(
                f"OutlierGuard: action={action!r}. Known: {', '.join(ACTIONS)}."
            )
        self.action = action

    def judge(self, norms: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (what to multiply each drift by, its share in the mean).

        Args:
          norms: ||u_k||, float32 [K].
        """
        finite = tf.math.is_finite(norms)
        # Those that are not finite count as the longest.
        known = tf.where(finite, norms, float("inf"))
        ordered = tf.sort(known)
        count = tf.shape(norms)[0]
        median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        limit = self.factor * median
        inside = norms <= limit
        shares = tf.where(finite if self.action == "clip" else inside, 1.0, 0.0)
        shares = tf.where(finite, shares, 0.0)
        clipped = tf.where(inside, 1.0, tf.math.divide_no_nan(limit, norms))
        scales = clipped if self.action == "clip" else tf.ones_like(norms)
        return scales, shares
