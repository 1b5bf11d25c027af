"""How each image is built and tested: the descriptions, with dagger-io alone.

What changes rarely comes first: Debian, then the locked dependencies, and our own source last, so that one
changed line makes only the last layers anew. The runtime image holds no compiler, no installer and no cache:
dependencies are installed elsewhere and copied.
"""

from __future__ import annotations

from pipelines.images.livekit import LiveKitImage
from pipelines.images.page import PageImage
from pipelines.images.python import PythonImage
from pipelines.images.spec import ImageSpec

__all__ = ["IMAGES", "LIVEKIT", "ImageSpec", "LiveKitImage", "PageImage", "PythonImage"]

IMAGES: tuple[ImageSpec, ...] = (
    PythonImage(
        name="fastapi-backend",
        folder="images/api",
        module="voice_api",
        ports=(8000,),
        redis=True,
        fault_flag=True,
    ),
    PythonImage(name="livekit-agent", folder="images/agent", module="voice_agent", ports=(8081, 9465)),
    PageImage(name="web-client", folder="images/web", ports=(8080,)),
    PythonImage(name="canary-guard", folder="images/guard", module="voice_guard", ports=()),
)
"""What a release consists of."""

LIVEKIT = LiveKitImage(name="livekit-server", folder="images/livekit", ports=(7880, 7881))
"""What a release runs beside: made and published on its own."""
