"""What a worker has read is freed when it is done with it, not when Python next looks for cycles: that takes the longer
the more there is, and everything else waits meanwhile."""

import gc
from collections import Counter

from calltasks.database.tables.rows import CallRow
from calltasks.platform.session import Job
from tests.pipeline import Sites

LEADS = 250


async def test_nothing_of_a_campaign_waits_for_the_garbage_collector(sites: Sites) -> None:
    site = await sites()
    site.add_leads(LEADS)
    task_id = await site.create_task()
    async with site.working():
        gc.collect()
        gc.disable()
        try:
            result = await site.run(task_id)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(thing) for thing in gc.garbage if isinstance(thing, CallRow | Job))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert result["follow_ups"] == LEADS
    assert not left
