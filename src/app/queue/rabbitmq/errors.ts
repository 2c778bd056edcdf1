/** What can go wrong with RabbitMQ that an application has to know. */
import { BanyanError } from '../../../errors.ts';

/** A shard that has just come: its workers have not declared themselves there yet. */
export class SubscriptionUnknown extends BanyanError {
  constructor(topic: string, subscription: string) {
    super('SUBSCRIPTION_UNKNOWN', {
      what: 'The shard of a message does not know its subscription yet',
      where: `topic ${topic}, subscription ${subscription}`,
      remedy: 'Nothing was moved: RabbitMQ delivers the message again',
    });
  }
}

export class PublishUncertain extends BanyanError {
  /** Ids of the messages that may have been published. */
  readonly ids: readonly string[];

  /** @param blocked why RabbitMQ takes no messages, by its own word; undefined when it did not say so */
  constructor(
    topic: string,
    ids: readonly string[],
    waitedMs: number,
    blocked: string | undefined,
    cause: unknown,
  ) {
    super('PUBLISH_UNCERTAIN', {
      what: `RabbitMQ did not confirm ${ids.length === 1 ? 'a message' : `${ids.length} messages`} within ${waitedMs / 1_000} s${blocked === undefined ? '' : `, since it takes none for now (${blocked})`}; whether ${ids.length === 1 ? 'it was' : 'they were'} published is not known`,
      where: `topic ${topic}`,
      remedy:
        'See `banyan status`: does RabbitMQ run, and has it memory and disk? Publish again if its effects bear being done twice',
      cause,
    });
    this.ids = ids;
  }
}
