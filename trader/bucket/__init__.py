"""Candles: what is closed is stored once, as the venue gave it; what is kept up to date is said by bucket_feed."""

from trader.bucket.cache import CandleCache
from trader.bucket.candles import BadCandleError, Candles, check, closed, from_list
from trader.bucket.export import export_file
from trader.bucket.feed import Feed, blaming, load_feed
from trader.bucket.file import Content, Hole, holes, read_file, read_files
from trader.bucket.import_ import Imported, import_file, present, preview_content, store_content
from trader.bucket.read import read_bucket_chunks, read_buckets
from trader.bucket.scan import scan
from trader.bucket.timeframe import TIMEFRAMES, Timeframe, timeframe_named, timeframe_numbered
from trader.bucket.update import Desk, Update, update_feed
from trader.bucket.write import Counts, bucket_ids, write_buckets

__all__ = [
    "TIMEFRAMES",
    "BadCandleError",
    "CandleCache",
    "Candles",
    "Content",
    "Counts",
    "Desk",
    "Feed",
    "Hole",
    "Imported",
    "Timeframe",
    "Update",
    "blaming",
    "bucket_ids",
    "check",
    "closed",
    "export_file",
    "from_list",
    "holes",
    "import_file",
    "load_feed",
    "present",
    "preview_content",
    "read_bucket_chunks",
    "read_buckets",
    "read_file",
    "read_files",
    "scan",
    "store_content",
    "timeframe_named",
    "timeframe_numbered",
    "update_feed",
    "write_buckets",
]
