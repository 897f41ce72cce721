"""CNI plug-ins: networks that others' programs make, and a pod's guest joined to them."""
