"""AMQP 0-9-1 as RabbitMQ speaks it: frames, channels with confirmed publishing, and the connection."""

from trepid.wire.amqp.channel import Channel as Channel
from trepid.wire.amqp.channel import Target as Target
from trepid.wire.amqp.confirming import Batch as Batch
from trepid.wire.amqp.confirming import ChannelClosedError as ChannelClosedError
from trepid.wire.amqp.connection import Amqp as Amqp
from trepid.wire.amqp.connection import Login as Login
from trepid.wire.amqp.connection import open_amqp as open_amqp
from trepid.wire.amqp.frames import Delivered as Delivered
