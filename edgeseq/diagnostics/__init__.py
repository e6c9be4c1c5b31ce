"""Long-term dependencies: how far a recurrent network's gradient reaches, measured on the network itself.

from edgeseq.diagnostics import diagnose

for diagnosis in diagnose(model, x).values():
    print(diagnosis)
"""

from edgeseq.diagnostics.diagnosis import Diagnosis, diagnose
from edgeseq.diagnostics.jacobians import gradient_norms, jacobian_product, mean_jacobian, output_gradients, state_jacobian
from edgeseq.diagnostics.linear import LinearRecurrence, spectral_radius
from edgeseq.diagnostics.lyapunov import lyapunov_exponents
from edgeseq.diagnostics.recurrence import DiagnosticsError, Recurrence, recurrence, recurrences
from edgeseq.diagnostics.saturation import Saturation, saturation
from edgeseq.diagnostics.slices import Slice, slice_through_rnn

__all__ = [
    "Diagnosis",
    "DiagnosticsError",
    "LinearRecurrence",
    "Recurrence",
    "Saturation",
    "Slice",
    "diagnose",
    "gradient_norms",
    "jacobian_product",
    "lyapunov_exponents",
    "mean_jacobian",
    "output_gradients",
    "recurrence",
    "recurrences",
    "saturation",
    "slice_through_rnn",
    "spectral_radius",
    "state_jacobian",
]
