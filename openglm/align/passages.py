"""Short plain texts of our own, in Chinese and English, with words in brackets that a reader could guess."""

PASSAGES = (
    "清晨的湖面上飘着一层薄薄的[雾]。一只白鹭站在浅水里，一动也不[动]，等着小鱼游过来。太阳升起以后，雾慢慢散了，对岸的山也看得[清楚]了。",
    "水烧到一百度就会[沸腾]，冷到零度就会结成[冰]。无论是冰、水还是蒸汽，都是同一种物质，只是温度不同[而已]。",
    "奶奶每年秋天都要腌一大缸白菜。她先把白菜洗[干净]，晾上半天，再一层菜一层盐地码好，最后压上一块大[石头]。等到过年的时候，全家人就能吃上酸菜饺子[了]。",
    "这座城市有三条地铁线。一号线从东到[西]，二号线从南到[北]，三号线绕着老城走一圈。早上八点左右人最[多]，很多人宁可骑自行车去上班。",
    "读书不必贪[多]，读一本就要读懂一本。遇到不明白的地方，先停下来想一[想]，想不通再去问老师。这样读过的书，过了很久也不会[忘记]。",
    "会议定在星期三[下午]两点开始，地点在三楼的会议室。请大家提前十分钟[到]，并带上各自部门的报表。如果不能参加，请事先打[电话]说明。",
    "古时候有一个人，走路时总是低着[头]。别人问他在找什么，他说，他小时候在路上捡到过一枚铜[钱]，从那以后，就再也没有抬起头来看过天上的[星星]。",
    "猫的眼睛在黑暗里会发[光]。白天光线强，它的瞳孔缩成一条[线]；到了夜里，瞳孔又变得又大又[圆]，好让更多的光进来。",
    "小河从村子中间流过，河上有一座石[桥]。夏天的傍晚，老人们坐在桥头乘凉、讲[故事]，孩子们就在河边捉萤火虫，一直玩到天[黑]。",
    "种树要选在春天。先挖一个深坑，把树苗放[进去]，扶正，再填上土，用脚踩[实]，最后浇足水。只要头一个夏天不缺[水]，树苗多半能活下来。",
    "医生说，他的病并不严[重]，只是太累了，需要好好休息。每天早睡早[起]，少喝酒，多吃蔬菜，过一两个月就会[好]起来。",
    "从这里到海边大约要走一个[小时]。路不难走，两边都是稻田。走到路口往左[拐]，就能听见海浪的声[音]了。",
    "The old lighthouse stood at the end of the pier. Every evening, just before it got [dark], the keeper "
    "climbed the stairs to light the [lamp]. Ships far out at [sea] could see it even on a stormy night.",
    "To make good bread you need only flour, water, salt and a little [yeast]. Mix them in a bowl, cover it with "
    "a [cloth] and leave the dough in a warm place. After an hour or two it will be twice as [big] as before.",
    "The train to the north leaves at ten past [nine] from platform four. Please show your [ticket] at the gate. "
    "If you miss it, there is another one an hour [later].",
    "When a bat flies at night, it does not need to [see]. It sends out short cries and listens for the [echo]. "
    "From the time that the echo takes, it knows how far [away] a wall or an insect is.",
    "My sister and I share a small room under the [roof]. In summer it is far too [hot], and in winter it is too "
    "cold, but when it rains we lie in our beds and listen to the drops, and neither of us would want to [live] "
    "anywhere else.",
    "A good tool does one thing and does it [well]. A knife that is also a spoon cuts badly, and nobody enjoys "
    "[eating] with it. The same is true of most [things] that people make.",
    "The moon goes around the [earth] in a little less than a month. Half of it is always lit by the [sun], but "
    "we see only the part of that half which faces us, and so it seems to [change] its shape.",
    "He counted the money twice and put it [back] into the envelope. There was enough to pay the [rent], but not "
    "enough for a new pair of [shoes]. The old ones would have to last until spring.",
    "Before you sign a letter, read it once [more] as if someone else had written it. You will find a word that "
    "is [missing], a sentence that is too [long], and perhaps a promise that you had better not make.",
    "In the middle of the market square there is a [well] that is four hundred years old. Nobody draws [water] "
    "from it now, but children still throw coins into it and make a [wish].",
    "Bees tell each other where the flowers are by [dancing]. The direction of the dance shows the way, and the "
    "longer the dance [lasts], the farther the other bees have to [fly].",
    "It had snowed all night, and in the morning the street was [white] and quiet. The only marks in the [snow] "
    "were those of a cat that had come home late and had found the door [closed].",
)
