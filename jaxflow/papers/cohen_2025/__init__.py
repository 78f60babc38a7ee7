"""Cohen, Damian, Talwalkar, Kolter & Lee (2025), "Understanding Optimization in Deep
Learning with Central Flows" (ICLR 2025, arXiv 2410.24206).

The flow itself is `jaxflow.central_flow`; here is what it is compared with.
"""
