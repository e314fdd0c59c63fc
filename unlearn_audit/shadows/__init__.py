"""Shadow models: a fleet of networks trained as the target was, on halves of what it may have seen.

A fleet is a folder: the plan, and what finished work has left. Any number of workers, on any machine that sees the
folder, take jobs from it; a killed one costs no finished model.
"""

from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.jobs import FleetContext, expected_gradients, open_fleet_context, work, work_until_done
from unlearn_audit.shadows.plan import FleetPlan, Job, Treatment, all_jobs, members, read_plan
from unlearn_audit.shadows.planner import PlannedFleet, plan_fleet
from unlearn_audit.shadows.pool import FleetRun, default_workers, run_on_ray, run_workers
from unlearn_audit.shadows.store import Fleet, FleetSignals, open_fleet
from unlearn_audit.shadows.verifying import Damage, remove_damaged, verify

__all__ = [
    "Damage",
    "Fleet",
    "FleetContext",
    "FleetFolder",
    "FleetPlan",
    "FleetRun",
    "FleetSignals",
    "Job",
    "PlannedFleet",
    "Treatment",
    "all_jobs",
    "default_workers",
    "expected_gradients",
    "members",
    "open_fleet",
    "open_fleet_context",
    "plan_fleet",
    "read_plan",
    "remove_damaged",
    "run_on_ray",
    "run_workers",
    "verify",
    "work",
    "work_until_done",
]
