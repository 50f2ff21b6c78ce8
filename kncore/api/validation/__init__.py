"""What makes an object acceptable (serving §1.5): one module per topic, `validate` for a whole object.

kinds       entry point; each kind's metadata, spec and update rules
metadata    names, owner labels, annotations outside templates
scaling     autoscaling.knative.dev annotations
template    revision templates and revision specs
containers  the containers of a pod         probes     their probes
volumes     volumes and mounts              security   security contexts
masks       fields Knative leaves out       traffic    traffic targets
internal    the kinds that controllers write
"""

from kncore.api.validation.kinds import Outcome, validate

__all__ = ["Outcome", "validate"]
