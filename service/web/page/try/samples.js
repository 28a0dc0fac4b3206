// Sample pictures, drawn here: digits for models of ink, clothes for models of objects.

import { draw } from "./pad.js";

const SIDE = 112; // pixels

const DIGITS = {
  0: [[[57, 18], [36, 26], [30, 56], [38, 90], [60, 95], [80, 84], [84, 52], [74, 24], [54, 18]]],
  2: [[[34, 36], [44, 20], [66, 18], [78, 32], [72, 52], [52, 72], [32, 92], [58, 90], [84, 92]]],
  3: [[[34, 24], [54, 16], [76, 26], [72, 46], [52, 53], [76, 60], [82, 80], [60, 96], [32, 88]]],
  4: [[[50, 16], [42, 40], [32, 62], [56, 62], [86, 62]], [[70, 38], [68, 70], [66, 98]]],
  7: [[[30, 22], [56, 22], [82, 20], [68, 48], [58, 72], [50, 98]]],
};

const CLOTHES = {
  "T-shirt": "M36 20 44 16Q56 26 68 16L76 20 98 40 86 54 77 47V98H35V47L26 54 14 40Z",
  trousers: "M38 10H74L80 102H63L56 42 49 102H32Z",
  dress: "M44 8H50L56 18 62 8H68L70 42 82 104H30L42 42Z",
  bag: "M12 46H100L96 98H16ZM38 46V36Q38 18 56 18 74 18 74 36V46H67V37Q67 25 56 25 45 25 45 37V46Z",
  boot: "M62 28H96L100 88H80V84H44V88H10V76Q14 68 32 63 54 56 62 28Z",
};

function paper() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, SIDE, SIDE);
  return [canvas, context];
}

function digit(strokes) {
  const [canvas, context] = paper();
  for (const points of strokes) draw(context, points, 9);
  return canvas;
}

function garment(path) {
  const [canvas, context] = paper();
  const shade = context.createLinearGradient(0, 0, SIDE, SIDE);
  shade.addColorStop(0, "#5b6470");
  shade.addColorStop(1, "#2b3038");
  context.fillStyle = shade;
  context.fill(new Path2D(path));
  return canvas;
}

/** Return the samples for a look as `{name, file}`, files in PNG; photos have none. */
export async function samplesOf(look) {
  const drawn = {
    ink: Object.entries(DIGITS).map(([name, strokes]) => [name, digit(strokes)]),
    object: Object.entries(CLOTHES).map(([name, path]) => [name, garment(path)]),
  };
  const files = (drawn[look] ?? []).map(async ([name, canvas]) => {
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    return { name, file: new File([blob], `${name}.png`, { type: "image/png" }) };
  });
  return Promise.all(files);
}
