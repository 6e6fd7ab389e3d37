"""The objects that are applied to the cluster: the ConfigMap, the Job and its pod, the claim, and the site file for
them."""
