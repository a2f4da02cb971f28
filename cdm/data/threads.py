"""Work on every record of a source by a few threads: decoders let go of Python's lock."""

import collections
import concurrent.futures
import os

COUNT = max(4, min(16, os.cpu_count() or 1))


def in_order(function, count):
    """function(0), …, function(count - 1), some of them ahead of time; an iterator."""
    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        ahead = collections.deque()
        try:
            for i in range(count):
                ahead.append(pool.submit(function, i))
                if len(ahead) > 4 * COUNT:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
