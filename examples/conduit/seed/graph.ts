/**
 * The social graph: who exists since when, who writes what, who follows whom, who likes what.
 *
 * Holds true here:
 * - Everything is a function of the seed and the sizes. A person's follows and favourites come from a
 *   random sequence of their own, so nothing depends on the order in which they are made.
 * - Memory is a few bytes for each person and article, however many rows come of it.
 * - Nobody acts before they signed up, and no article is liked before it was written.
 */
import { below, paretoCount, type Random, randomOf, shuffled } from './random.ts';
import { Zipf } from './zipf.ts';

export interface GraphSize {
  seed: number;
  users: number;
  /** These are means. */
  articlesPerUser: number;
  followsPerUser: number;
  favoritesPerUser: number;
  commentsPerUser: number;
  tagsPerArticle: number;
  /** The time that all of it is spread over. */
  days: number;
}

/** Different purposes, different random sequences. */
export const STREAM = {
  fame: 1,
  appeal: 2,
  authors: 3,
  follows: 4,
  favorites: 5,
  comments: 6,
  userText: 7,
  articleText: 8,
} as const;

/** How unequal: with an exponent of 0.8 the best known of a million has a quarter of all as followers. */
const FAME_EXPONENT = 0.8;
const APPEAL_EXPONENT = 0.85;
const WRITING_EXPONENT = 0.5;

/** More than most people ever do, and within the application's own limit of follows. */
const MOST_FOLLOWS = 2_000;
const MOST_FAVORITES = 1_000;

const DAY_MS = 24 * 60 * 60 * 1_000;

export class Graph {
  readonly size: GraphSize;
  readonly articleCount: number;
  /** Index of the author of each article; articles are in the order of their dates. */
  readonly authorOf: Uint32Array;
  readonly #fame: Uint32Array;
  readonly #appeal: Uint32Array;
  readonly #fameLaw: Zipf;
  readonly #appealLaw: Zipf | undefined;
  readonly #begin: number;
  readonly #span: number;

  /** @param now the end of the time that is spread over */
  constructor(size: GraphSize, now: Date) {
    this.size = size;
    this.articleCount = Math.round(size.users * size.articlesPerUser);
    this.#span = size.days * DAY_MS;
    this.#begin = now.getTime() - this.#span;
    this.#fame = shuffled(randomOf(size.seed, STREAM.fame), size.users);
    this.#appeal = shuffled(randomOf(size.seed, STREAM.appeal), this.articleCount);
    this.#fameLaw = new Zipf(size.users, FAME_EXPONENT);
    this.#appealLaw =
      this.articleCount > 0 ? new Zipf(this.articleCount, APPEAL_EXPONENT) : undefined;
    this.authorOf = this.#chooseAuthors();
  }

  /** Sign-ups come faster and faster. */
  signedUpAt(user: number): number {
    return this.#begin + this.#span * 0.98 * Math.sqrt(user / this.size.users);
  }

  /** All that is in the first hundredth has an author by then. */
  writtenAt(article: number): number {
    return (
      this.#begin + this.#span * (0.01 + 0.99 * Math.sqrt((article + 1) / (this.articleCount + 1)))
    );
  }

  /** Calls `take` for each person whom this one follows, once. */
  followsOf(user: number, take: (followed: number, at: number) => void): void {
    const { seed, users, followsPerUser } = this.size;
    const random = randomOf(seed, STREAM.follows, user);
    const most = Math.min(MOST_FOLLOWS, Math.floor((users - 1) / 2));
    const wanted = paretoCount(random, followsPerUser, most);
    distinct(
      wanted,
      () => this.#fame[this.#fameLaw.sample(random) - 1]!,
      user,
      followed => {
        const since = Math.max(this.signedUpAt(user), this.signedUpAt(followed));
        take(followed, this.#between(random, since));
      },
    );
  }

  /** Calls `take` for each article that this person likes, once. */
  favoritesOf(user: number, take: (article: number) => void): void {
    const law = this.#appealLaw;
    if (!law) return;
    const { seed, favoritesPerUser } = this.size;
    const random = randomOf(seed, STREAM.favorites, user);
    const most = Math.min(MOST_FAVORITES, Math.floor(this.articleCount / 2));
    const wanted = paretoCount(random, favoritesPerUser, most);
    distinct(wanted, () => this.#appeal[law.sample(random) - 1]!, undefined, take);
  }

  get commentCount(): number {
    return this.#appealLaw ? Math.round(this.size.users * this.size.commentsPerUser) : 0;
  }

  /** Which article the comment is for, by whom and when. */
  comment(index: number): { article: number; user: number; at: number; random: Random } {
    const random = randomOf(this.size.seed, STREAM.comments, index);
    const article = this.#appeal[this.#appealLaw!.sample(random) - 1]!;
    const user = below(random, this.size.users);
    const since = Math.max(this.writtenAt(article), this.signedUpAt(user));
    return { article, user, at: this.#between(random, since), random };
  }

  /** Whoever is well known also writes more; only those who have signed up can. */
  #chooseAuthors(): Uint32Array {
    const { seed, users } = this.size;
    const random = randomOf(seed, STREAM.authors);
    const law = new Zipf(users, WRITING_EXPONENT);
    const authors = new Uint32Array(this.articleCount);
    for (let article = 0; article < authors.length; article++) {
      const at = this.writtenAt(article);
      let author = this.#fame[law.sample(random) - 1]!;
      for (let tries = 0; this.signedUpAt(author) > at; tries++) {
        author = tries < 20 ? this.#fame[law.sample(random) - 1]! : Math.floor(author / 2);
      }
      authors[article] = author;
    }
    return authors;
  }

  #between(random: Random, since: number): number {
    return since + random() * (this.#begin + this.#span - since);
  }
}

/** Reused: one set for each person would be a lot to collect. */
const seen = new Set<number>();

/** Draws until `wanted` different ones are there, or the popular ones keep coming up. */
function distinct(
  wanted: number,
  draw: () => number,
  except: number | undefined,
  take: (drawn: number) => void,
): void {
  seen.clear();
  for (let tries = wanted * 5; tries > 0 && seen.size < wanted; tries--) {
    const drawn = draw();
    if (drawn === except || seen.has(drawn)) continue;
    seen.add(drawn);
    take(drawn);
  }
}
