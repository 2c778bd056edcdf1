/** What the people of a seeded Conduit are called and write about. */

export const FIRST_NAMES =
  'ada alan alma amara anders anika ari astrid basil bela bianca boris carmen cleo dalia dario diego dora edith elena elif emil enzo esme farid fatima felix fiona freya gita goran greta hana hugo ida igor imani ines ivan jana jaro joel jonas juno kai kamal karin kenji kofi lara leo lena linus lola luca mabel maja malik mara mateo mila mina nadia naomi nils noor odile olga omar oskar otto pablo petra priya quinn rafael rania remy rosa ruben sami sana selma sofia sven tara tariq theo tilda umar una vera victor wanda xenia yara yusuf zainab zoe'.split(
    ' ',
  );

export const LAST_NAMES =
  'abbot acosta adler amin archer arroyo bahr barrow becker bello blum brandt brook calder castro chen cole cruz dahl darby diaz dunn ekman ellis engel farrow fisher flores fox garde gomez grant gray haas hale hansen hart hill holt huber ito jansen jones kaya keller khan kim klein koch lake lang larsen lee lind lopez lund maier marsh mehta mendez moss nagel nash nguyen north novak okafor olsen ortiz park patel penn petrov pike quist rao reed rios rossi roth sato shah silva singh stone sun tanaka thorn toft vance vega vogel wade wang webb weiss west wolf wood yilmaz young zeller'.split(
    ' ',
  );

/** By how common they are. */
export const TAGS =
  'programming databases javascript typescript postgres web performance design testing scaling devops career writing learning css architecture security open-source linux node sql caching startup productivity ai data rust go python cloud http api monitoring distributed-systems queues sharding replication refactoring git docker debugging accessibility ux teams remote-work management books history music travel food cooking photography gardening health running cycling climbing coffee science maths physics biology space climate energy cities transport maps language translation education parenting games chess film theatre art poetry essays philosophy psychology economics law politics privacy ethics hardware electronics robotics 3d-printing woodworking bread fermentation birds trees rivers mountains sea sailing swimming sleep memory habits focus minimalism money'.split(
    ' ',
  );

export const SUBJECTS = [
  'a slow query',
  'the second server',
  'an old library',
  'boring technology',
  'a small team',
  'the on-call phone',
  'reading code',
  'a missing index',
  'the first thousand users',
  'an empty inbox',
  'a long walk',
  'good defaults',
  'a cold cache',
  'pair programming',
  'the last ten percent',
  'a rewrite',
  'writing every day',
  'sourdough',
  'a garden in the shade',
  'the night train',
  'a failed launch',
  'eventual consistency',
  'a paper notebook',
  'the morning stand-up',
  'a broken build',
  'learning in public',
  'the river behind the house',
  'an honest retrospective',
  'a queue that never drains',
  'two databases',
] as const;

export const LESSONS = [
  'patience',
  'to measure first',
  'to ask sooner',
  'about trust',
  'to say no',
  'to delete code',
  'to write things down',
  'about failure',
  'to start small',
  'to listen',
  'about time',
  'to stop guessing',
] as const;

export const TITLES = [
  'What {subject} taught me {lesson}',
  'Notes on {subject}',
  'In praise of {subject}',
  'The trouble with {subject}',
  'Living with {subject}',
  'Why I changed my mind about {subject}',
  'A field guide to {subject}',
  'How we survived {subject}',
  '{subject}, one year later',
  'Everything I got wrong about {subject}',
  'Beginning again with {subject}',
  '{number} things about {subject}',
] as const;

export const SENTENCES = [
  'It began with {subject}, as these things do.',
  'Nobody had planned for {subject}.',
  'I used to think that {subject} was somebody else’s job.',
  'For a while it worked, and then it did not.',
  'We looked at the numbers again, slowly this time.',
  'The graph was flat for a week and then it was not.',
  'The simplest change turned out to be the one that stayed.',
  'There is a kind of calm in doing one thing at a time.',
  'We wrote the answer on the wall, where it still is.',
  'What helped most was to talk about it over coffee.',
  'By evening the whole thing fitted on one page.',
  'I would do it again, but not in the same order.',
  'The first version was wrong in an interesting way.',
  'A friend asked why, and I had no good answer.',
  'Most of the work was deciding what to leave out.',
  'It cost us a weekend and saved us a year.',
  'The tests were green, which told us nothing.',
  'If there is a secret, it is {subject}.',
  'You notice {subject} only when it is gone.',
  'It took me years to see how much depends on {subject}.',
] as const;

export const COMMENTS = [
  'This is exactly what I needed today. Thank you!',
  'I see it differently: in our case {subject} was the easy part.',
  'Saved for later, and sent to the whole team.',
  'Could you say more about {subject}?',
  'We learned the same thing the hard way.',
  'Lovely writing, as always.',
  'The part about {subject} made me laugh out loud.',
  'I tried this for a month, and it works.',
  'Not sure that I agree, but it made me think.',
  'More of this, please.',
  'Reminds me of {subject}.',
  'You should give a talk about this.',
] as const;

export const BIOS = [
  'Writes about {tag} and {other}.',
  '{tag} by day, {other} by night.',
  'Curious about {tag}. Learning {other}.',
  'Thinks in {tag}, dreams of {other}.',
  'Mostly {tag}. Sometimes {other}. Opinions are my own.',
  'Here to read about {tag}.',
] as const;
