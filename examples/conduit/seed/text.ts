/** Makes texts from the word lists. The same random numbers give the same text. */
import { below, pick, type Random } from './random.ts';
import {
  BIOS,
  COMMENTS,
  FIRST_NAMES,
  LAST_NAMES,
  LESSONS,
  SENTENCES,
  SUBJECTS,
  TAGS,
  TITLES,
} from './words.ts';

const NAMES = FIRST_NAMES.length * LAST_NAMES.length;

/** Prime and no divisor of the number of names: neighbours get names that are far apart, none twice. */
const STRIDE = 7_919;

/** Different for each index, with a number once all names are taken. */
export function usernameOf(index: number): string {
  const at = ((index % NAMES) * STRIDE) % NAMES;
  const first = FIRST_NAMES[at % FIRST_NAMES.length]!;
  const last = LAST_NAMES[Math.floor(at / FIRST_NAMES.length)]!;
  const round = Math.floor(index / NAMES);
  return round === 0 ? `${first}-${last}` : `${first}-${last}-${round + 1}`;
}

export function bioOf(random: Random): string {
  if (random() < 0.35) return '';
  return fill(pick(random, BIOS), random);
}

export function titleOf(random: Random): string {
  const title = fill(pick(random, TITLES), random);
  return title[0]!.toUpperCase() + title.slice(1);
}

export function descriptionOf(random: Random): string {
  return fill(pick(random, SENTENCES), random);
}

export function commentOf(random: Random): string {
  return fill(pick(random, COMMENTS), random);
}

/** Markdown: a few paragraphs, and now and then a heading, a list, a quotation or some code. */
export function bodyOf(random: Random): string {
  const blocks = [paragraph(random)];
  for (let left = 1 + below(random, 4); left > 0; left--) {
    const kind = random();
    if (kind < 0.25) blocks.push(`## ${titleOf(random)}`);
    else if (kind < 0.38) blocks.push(list(random));
    else if (kind < 0.48) blocks.push(`> ${descriptionOf(random)}`);
    else if (kind < 0.54) blocks.push(code(random));
    blocks.push(paragraph(random));
  }
  return blocks.join('\n\n');
}

function paragraph(random: Random): string {
  let text = descriptionOf(random);
  for (let left = 1 + below(random, 3); left > 0; left--) text += ` ${descriptionOf(random)}`;
  return random() < 0.3 ? `${text} **${descriptionOf(random)}**` : text;
}

function list(random: Random): string {
  return `- ${pick(random, SUBJECTS)}\n- ${pick(random, SUBJECTS)}\n- ${pick(random, SUBJECTS)}`;
}

function code(random: Random): string {
  const tag = pick(random, TAGS);
  return `\`\`\`sql\nselect title from articles where '${tag}' = any(tag_list)\norder by created_at desc limit 10;\n\`\`\``;
}

function fill(template: string, random: Random): string {
  if (!template.includes('{')) return template;
  return template
    .replace('{subject}', pick(random, SUBJECTS))
    .replace('{lesson}', pick(random, LESSONS))
    .replace('{number}', String(3 + below(random, 9)))
    .replace('{tag}', pick(random, TAGS))
    .replace('{other}', pick(random, TAGS));
}
