"""nn.Module -> bundle: recurrent networks as ONNX graphs whose recurrence is kept, and proved equal before they are written."""

from edgeseq_export.exporting import ExportNotice, export, export_request
from edgeseq_export.generation import generation_request
from edgeseq_export.request import ExportRequest

__all__ = ["ExportNotice", "ExportRequest", "export", "export_request", "generation_request"]
