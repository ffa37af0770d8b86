"""The RabbitMQ broker: quorum queues, confirmed publishing, and a ladder of queues for delays."""

from trepid.brokers.rabbitmq.broker import RabbitMQBroker as RabbitMQBroker
