"""JSON that comes in: as lenient as the contract says, in calls of bounded length."""
