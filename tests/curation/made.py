"""Text as the tests of curation need it: whole sentences of several scripts, none from anywhere."""

from __future__ import annotations

import random

GERMAN = (
    "Am frühen Morgen ging der Bäcker durch die leeren Gassen der kleinen Stadt und dachte an den "
    "Teig, der noch ruhen musste. Seine Tochter hatte ihm geschrieben, dass sie im Sommer zurückkommen "
    "wolle, um das Haus zu sehen, in dem sie geboren war."
)
VIETNAMESE = (
    "Buổi sáng sớm người thợ làm bánh đi qua những con đường vắng của thị trấn nhỏ và nghĩ đến bột còn "
    "phải ủ. Con gái ông viết thư rằng mùa hè này cô sẽ trở về thăm ngôi nhà nơi cô đã sinh ra."
)
UKRAINIAN = (
    "Рано-вранці пекар ішов порожніми вуличками маленького міста й думав про тісто, яке ще мало "
    "підійти. Дочка написала йому, що влітку хоче повернутися й побачити дім, у якому вона народилася."
)
CHINESE = (
    "清晨,麵包師傅走過小鎮空蕩蕩的巷子,心裡想著還需要靜置的麵團。他的女"
    "兒寫信告訴他,夏天她想回來看看自己出生的那棟房子。"
)
HINDI = (
    "सुबह-सुबह नानबाई छोटे शहर की सूनी गलियों से गुज़रा और उस आटे के बारे में सोचता "
    "रहा जिसे अभी फूलना था। उसकी बेटी ने लिखा था कि वह गर्मियों में लौटकर वह घर "
    "देखना चाहती है जहाँ वह पैदा हुई थी।"
)
TEXTS = {"de": GERMAN, "vi": VIETNAMESE, "uk": UKRAINIAN, "zh": CHINESE, "hi": HINDI}


def words(seed: int, count: int) -> list[str]:
    """Made-up words, the same each time."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnoprstuvwz", k=draw.randint(3, 9))) for _ in range(count)]


def prose(seed: int, count: int = 120) -> str:
    """So many made-up words."""
    return " ".join(words(seed, count)) + "."
